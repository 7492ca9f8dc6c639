"""The synthetic world: labelled clips as real video files, and images with captions; all ground truth is known."""
