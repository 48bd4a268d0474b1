"""Convert the weights of a detector between weaksam, detectron2 and mmdet."""

from __future__ import annotations

from pathlib import Path

from weaksam.config import UserError, did_you_mean
from weaksam.models.detectors.first_weights import own_names
from weaksam.models.detectors.foreign_names import detectron2_names, mmdet_names
from weaksam.models.detectors.published import read_published
from weaksam.store.weights import load_state, save_torch, save_weights

FRAMES = {"weaksam": ".safetensors", "detectron2": ".pth", "mmdet": ".pth"}
"""What weights can be written for, and the ending of the file."""


def convert_weights(source: Path, frame: str, out: Path) -> str:
    """Write the detector at ``source`` by the names of a frame; says what was written.

    ``source``: for ``detectron2`` and ``mmdet`` our weights, a file or the folder of a training with
    ``weights.safetensors``; for ``weaksam`` those that ``retrain.init`` reads too: torchvision's, detectron2's, mmdet's
    and detrex's. Raises `UserError`.
    """
    if frame not in FRAMES:
        raise UserError(f"wanted {', '.join(FRAMES)} as --to, found {frame!r}{did_you_mean(frame, FRAMES)}: name one")
    if out.suffix.lower() != FRAMES[frame]:
        raise UserError(f"wanted a file that ends in {FRAMES[frame]} for --to {frame}, found {out}: rename it")
    path = source / "weights.safetensors" if source.is_dir() else source
    what = f"the detector {path}"
    if frame == "weaksam":
        detector = read_published(path, what)
        state = own_names(detector.state)
        save_weights(out, state)
    else:
        names = {"detectron2": detectron2_names, "mmdet": mmdet_names}[frame]
        state = names(load_state(path, what), what)
        save_torch(out, {"model" if frame == "detectron2" else "state_dict": state})
    return f"{out}: {len(state)} tensors by the names of {frame}"
