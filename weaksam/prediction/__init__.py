"""Detect on new photos with the checkpoint of a stage, and take the network elsewhere."""
