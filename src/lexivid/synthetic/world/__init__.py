"""The synthetic world: labelled clips as real video files, and pictures with captions, with known ground truth."""
