"""Torchvision's detectors: batches with boxes and masks, training, and detections in stores."""
