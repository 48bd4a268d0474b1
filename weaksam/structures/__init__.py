"""Hold the values that pass between the stages, and compute the geometry of boxes and masks."""
