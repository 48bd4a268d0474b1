"""Start a detector from given weights: a folder that a training sealed, or a safetensors file."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from weaksam.config import UserError
from weaksam.engine.training_state import load_sealed, sealed_sha256
from weaksam.store.files import file_sha256
from weaksam.store.weights import load_into, load_state


def start_from(model: nn.Module, path: Path, name: str, new: tuple[str, ...] = ()) -> str:
    """Load the weights at ``path`` into ``model``, every tensor accounted for; SHA-256 (hex) of their file.

    Tensors whose names start with one of ``new`` may be missing, all of them together: they stay as they are.

    Raises:
        UserError: no such file, a folder that no training sealed, damaged weights, or those of another detector, shape
            or number of classes.
    """
    what = f"{name}.init ({path})"
    sealed = path / "weights.safetensors"
    if sealed.is_file() and (path / "manifest.json").is_file():
        sha256, state = sealed_sha256(sealed), load_sealed(sealed, what)
    elif path.is_file() and path.suffix == ".safetensors":
        sha256 = file_sha256(path)
        state = load_state(path, what, sha256)
    else:
        raise UserError(
            f"{name}.init wants a .safetensors file, or the folder of a finished training with weights.safetensors and "
            f"manifest.json, such as OUT/retrain/store/weights-*; found neither in {path}: name one of them"
        )
    has_new = any(key.startswith(new) for key in state) if new else False
    load_into(model, state, what, allow_missing=() if has_new else new)
    return sha256
