"""The field's measures: VOC AP, CorLoc, COCO AP, proposal recall, pseudo-ground-truth quality, mask AP."""
