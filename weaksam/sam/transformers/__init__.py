"""The SAM families that transformers maintains."""
