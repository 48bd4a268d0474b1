"""Datasets and configurations for other training frames: mmdet and detectron2."""
