"""Read photos, tags, truth, detections and proposals from files of any format, and write them."""
