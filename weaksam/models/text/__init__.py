"""Detectors that are asked for a class by its name."""
