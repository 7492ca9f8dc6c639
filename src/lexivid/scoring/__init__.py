"""From features to scores, below training and evaluation: heads, log odds, calibration, the base/novel offset."""
