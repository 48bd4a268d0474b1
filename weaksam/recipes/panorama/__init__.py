"""GoodSAM-style: a compact segmenter for panoramas from a frozen segmenter and an assistant (arXiv 2403.16370)."""
