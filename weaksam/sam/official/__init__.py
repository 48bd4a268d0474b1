"""The official Segment Anything models (ViT-B, L, H)."""
