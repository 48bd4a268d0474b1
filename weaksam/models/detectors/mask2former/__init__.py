"""Mask2Former: the network of transformers with training and use of our own."""
