"""The instance segmentation stage: boxes to pseudo masks, and Mask R-CNN trained on them."""
