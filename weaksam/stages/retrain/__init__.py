"""The retraining stage: a detector trained on pseudo ground truth."""
