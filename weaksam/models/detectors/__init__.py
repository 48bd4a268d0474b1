"""Torchvision's detectors, sized for small sets and few cores."""
