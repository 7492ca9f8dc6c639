"""Video encoders on top of a backbone: towers, fusion blocks, and one file per paper."""
