"""Read published weights of Faster and Mask R-CNN with ResNet-50 and a feature pyramid, torchvision's or detectron2's.

Both become torchvision's names and torchvision's order of classes, background first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.proposals.plain_pickle import read_plain_pickle
from weaksam.store.weights import load_state

_STAGES, _LEVELS = range(2, 6), range(2, 6)
_NAMES = {
    "backbone.bottom_up.stem.": "backbone.body.",
    **{f"backbone.bottom_up.res{stage}.": f"backbone.body.layer{stage - 1}." for stage in _STAGES},
    **{f"backbone.fpn_lateral{level}.": f"backbone.fpn.inner_blocks.{level - 2}.0." for level in _LEVELS},
    **{f"backbone.fpn_output{level}.": f"backbone.fpn.layer_blocks.{level - 2}.0." for level in _LEVELS},
    "proposal_generator.rpn_head.conv.": "rpn.head.conv.0.0.",
    "proposal_generator.rpn_head.objectness_logits.": "rpn.head.cls_logits.",
    "proposal_generator.rpn_head.anchor_deltas.": "rpn.head.bbox_pred.",
    "roi_heads.box_head.fc1.": "roi_heads.box_head.fc6.",
    "roi_heads.box_head.fc2.": "roi_heads.box_head.fc7.",
    "roi_heads.box_predictor.cls_score.": "roi_heads.box_predictor.cls_score.",
    "roi_heads.box_predictor.bbox_pred.": "roi_heads.box_predictor.bbox_pred.",
    **{f"roi_heads.mask_head.mask_fcn{layer}.": f"roi_heads.mask_head.{layer - 1}.0." for layer in range(1, 9)},
    "roi_heads.mask_head.deconv.": "roi_heads.mask_predictor.conv5_mask.",
    "roi_heads.mask_head.predictor.": "roi_heads.mask_predictor.mask_fcn_logits.",
}
"""Beginnings of detectron2's names and of torchvision's; what follows is the same but inside the ResNet."""
_INSIDE_BODY = {r"conv(\d)\.norm\.": r"bn\1.", r"shortcut\.norm\.": "downsample.1.", r"shortcut\.": "downsample.0."}
_OLDER_NAMES = {
    r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)": r"\1.0.\2",
    r"rpn\.head\.conv\.(weight|bias)": r"rpn.head.conv.0.0.\1",
    **{rf"roi_heads\.mask_head\.mask_fcn{layer}\.": f"roi_heads.mask_head.{layer - 1}.0." for layer in range(1, 9)},
}
"""Names of torchvision before 0.13, in which its published files are still written, and those of today."""
_CONSTANTS = re.compile(r"pixel_(mean|std)|proposal_generator\.anchor_generator\..*|.*\.num_batches_tracked")
"""Names of what both detectors compute from their settings."""


def read_published(path: Path, what: str) -> dict[str, Tensor]:
    """Tensors by torchvision's names from a ``.pth``, ``.safetensors`` or detectron2's ``.pkl`` file.

    Older names of torchvision become today's. ``what`` names the wanted weights in the error. Raises:
        UserError: the file is missing, damaged or no weights, or holds a name of detectron2 that has no place.
    """
    state = _read_pickle(path, what) if path.suffix == ".pkl" else load_state(path, what)
    return torchvision_names(state, what) if is_detectron2(state) else _with_names_of_today(state)


def _with_names_of_today(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's tensors by today's names; counts of batches, which frozen batch-norm has not, are left out."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for older, today in _OLDER_NAMES.items():
            name = re.sub(f"^{older}", today, name)
        if not _CONSTANTS.fullmatch(key):
            renamed[name] = value
    return renamed


def is_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether names are those of detectron2."""
    return any(key.startswith(("backbone.bottom_up.", "proposal_generator.")) for key in state)


def torchvision_names(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors of a detectron2 detector by torchvision's names; every name is accounted for.

    The background moves from the last to the first class. detectron2 has no offsets and no mask of the background:
    those rows, which are never read, become 0. Names of constants (pixel means, anchors) are left out. Raises:
        UserError: a name that is neither a weight of Faster or Mask R-CNN nor one of these constants.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if _CONSTANTS.fullmatch(key):
            continue
        name = _torchvision_name(key)
        if name is None:
            raise UserError(
                f"{what} wants detectron2's Faster or Mask R-CNN with ResNet-50 and a feature pyramid, found the "
                f"tensor '{key}', which has no place in one: give the weights of such a detector"
            )
        renamed[name] = _background_first(name, value)
    return renamed


def _torchvision_name(key: str) -> str | None:
    """Torchvision's name for one of detectron2's; None where it has none."""
    for beginning, theirs in _NAMES.items():
        if key.startswith(beginning):
            rest = key.removeprefix(beginning)
            if theirs.startswith("backbone.body."):
                for pattern, replacement in _INSIDE_BODY.items():
                    rest = re.sub(pattern, replacement, rest)
            return theirs + rest
    return None


def _background_first(name: str, rows: Tensor) -> Tensor:
    """The rows of a predictor with the background's first; any other tensor as it is."""
    if ".cls_score." in name:
        return torch.cat([rows[-1:], rows[:-1]])
    missing = 4 if ".bbox_pred." in name and name.startswith("roi_heads.") else int(".mask_fcn_logits." in name)
    return torch.cat([torch.zeros_like(rows[:missing]), rows])


def _read_pickle(path: Path, what: str) -> dict[str, Tensor]:
    """The arrays of detectron2's ``.pkl``: a dictionary of arrays, itself or under ``model``."""
    content = read_plain_pickle(path, f"weights of {what}")
    arrays = content.get("model", content) if isinstance(content, dict) else {}
    if not isinstance(arrays, dict) or not any(isinstance(value, np.ndarray) for value in arrays.values()):
        raise UserError(f"wanted weights of {what} at {path}, found a pickle without named arrays: give another file")
    return {str(key): torch.from_numpy(value) for key, value in arrays.items() if isinstance(value, np.ndarray)}
