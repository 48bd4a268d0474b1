"""Read and write the formats of annotations, results and tags: COCO, VOC, YOLO and files of tags."""
