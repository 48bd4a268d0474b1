"""Write a segmenter whose updates are merged as a plain checkpoint, in the format that it was read from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from weaksam.config import UserError
from weaksam.sam.nano.segmenter import SamNano
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.protocol import Segmenter
from weaksam.store.files import atomic_folder
from weaksam.store.weights import save_torch, save_weights


def write_checkpoint(segmenter: Segmenter, path: Path) -> None:
    """Write the network of ``segmenter`` to ``path``, which must not be there.

    segment-anything's: a ``.pth`` file as Meta's. sam_nano's: a ``.safetensors`` file. One of transformers: a folder
    that ``from_pretrained`` reads. Raises `UserError` for another ending, a path that is there, and a segmenter without
    a network.
    """
    if path.exists():
        raise UserError(f"wanted a new path for the checkpoint, found {path}, which is there: name another one")
    if isinstance(segmenter, SegmentAnything):
        _require_suffix(path, ".pth", segmenter.name)
        save_torch(path, segmenter.sam.state_dict())
        return
    if isinstance(segmenter, SamNano):
        _require_suffix(path, ".safetensors", segmenter.name)
        save_weights(path, segmenter.model.state_dict(), {"architecture": asdict(segmenter.model.spec)})
        return
    from weaksam.sam.transformers.segmenter import TransformersSam  # here, as transformers takes seconds to import

    if not isinstance(segmenter, TransformersSam):
        raise UserError(f"wanted a segmenter with a network to export, found {segmenter.name}: set segmenter.weights")
    _require_suffix(path, "", segmenter.name)
    with atomic_folder(path) as folder:
        segmenter.network.save_pretrained(folder)
        segmenter.model.processor.save_pretrained(folder)


def _require_suffix(path: Path, suffix: str, name: str) -> None:
    if path.suffix.lower() != suffix:
        wanted = f"a name that ends in {suffix}" if suffix else "the name of a folder"
        raise UserError(f"wanted {wanted} for the checkpoint of {name}, found {path}: rename it")
