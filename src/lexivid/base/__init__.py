"""What knows nothing of video: where files lie, worker processes, signals, work ahead, HTML pages."""
