"""Annotation and tag formats, read and written: COCO, VOC, YOLO, tag files."""
