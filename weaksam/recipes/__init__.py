"""Companions on the same primitives: WeSAM; room for WS-SAM and GoodSAM-style distillation."""
