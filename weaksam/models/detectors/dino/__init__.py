"""DINO (Zhang et al., ICLR 2023): a detector of object queries with denoising, in mmdet's names."""
