"""Training with pairs of keypoints, for lightning_reg."""

requires_lightning_reg = ">=1.0,<2"
