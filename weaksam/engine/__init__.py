"""Training loop, checkpoints, seeds, progress and logs; knows no method."""
