"""Semantic segmenters: SegFormer in its sizes, or any that transformers maintains."""
