"""Weights on disk, as the engine and the stages import them; the code lies in `weaksam.store.weights`, below the models."""

from weaksam.store.weights import load_into, load_state, read_metadata, save_weights

__all__ = ["load_into", "load_state", "read_metadata", "save_weights"]
