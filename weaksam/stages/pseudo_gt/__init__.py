"""The pseudo ground truth stage: which detections are believed."""
