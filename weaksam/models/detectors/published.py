"""Read published weights of Faster and Mask R-CNN with ResNet-50 and a feature pyramid, torchvision's or detectron2's.

Both become torchvision's names and torchvision's order of classes, background first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, MaskRCNN_ResNet50_FPN_Weights

from weaksam.config import UserError
from weaksam.models.backbones.colours import CaffeColours
from weaksam.models.backbones.detectron2_files import (
    DETECTRON2,
    TORCHVISION,
    Conventions,
    read_arrays,
    resnet_name,
)
from weaksam.models.detectors.dino.names import is_detrex_dino, is_mmdet_dino, our_names
from weaksam.store.weights import load_state

_LEVELS = range(2, 6)
_BODY = "backbone.bottom_up."
_NAMES = {
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
"""Beginnings of detectron2's names outside the ResNet and of torchvision's; what follows is the same."""
_OLDER_NAMES = {
    r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)": r"\1.0.\2",
    r"rpn\.head\.conv\.(weight|bias)": r"rpn.head.conv.0.0.\1",
    **{rf"roi_heads\.mask_head\.mask_fcn{layer}\.": f"roi_heads.mask_head.{layer - 1}.0." for layer in range(1, 9)},
}
"""Names of torchvision before 0.13, in which its published files are still written, and those of today."""
_CONSTANTS = re.compile(r"pixel_(mean|std)|proposal_generator\.anchor_generator\..*|.*\.num_batches_tracked")
"""Names of what both detectors compute from their settings."""


_NO_EPSILON = {
    Path(weights.COCO_V1.url).name for weights in (FasterRCNN_ResNet50_FPN_Weights, MaskRCNN_ResNet50_FPN_Weights)
}
"""Files that torchvision published for a batch-norm that adds nothing to the variance; others add `_EPSILON`."""
_EPSILON = 1e-5


class PublishedDetector(NamedTuple):
    """Tensors of a detector by our names or torchvision's, and what they expect."""

    state: dict[str, Tensor]
    conventions: Conventions | None
    """None where the names are not those of a ResNet-50: they may be ours."""


def read_published(path: Path, what: str) -> PublishedDetector:
    """A detector in torchvision's, detectron2's, or (DINO) mmdet's or detrex's names: .pth, .safetensors or .pkl.

    Older names of torchvision become today's. ``what`` names the wanted weights in the error. Raises:
        UserError: the file is missing, damaged or no weights, or holds a name of detectron2 that has no place.
    """
    state = read_arrays(path, what) if path.suffix == ".pkl" else load_state(path, what)
    if is_detectron2(state):
        return PublishedDetector(torchvision_names(state, what), _conventions(state, what))
    if is_mmdet_dino(state) or is_detrex_dino(state):
        return PublishedDetector(our_names(state, what), TORCHVISION)
    state = _with_names_of_today(state)
    if path.name in _NO_EPSILON:  # the batch-norm adds what is taken away here
        state = {key: value - _EPSILON if key.endswith(".running_var") else value for key, value in state.items()}
    in_resnet = any(key.startswith("backbone.body.layer1.") for key in state)
    return PublishedDetector(state, TORCHVISION if in_resnet else None)


def _conventions(state: Mapping[str, Tensor], what: str) -> Conventions:
    """What a detector of detectron2 expects: its defaults, but the colours that the file itself states.

    Means that fall from the first channel to the last are those of red, green and blue. Where levels are divided by a
    deviation the ResNet is torchvision's, whose stride is in the 3x3 convolution (detectron2's model zoo). Raises:
        UserError: means and deviations that are not three numbers each, deviations above 0.
    """
    if not {"pixel_mean", "pixel_std"} <= state.keys():
        return DETECTRON2
    mean, deviation = (state[f"pixel_{name}"].flatten().tolist() for name in ("mean", "std"))
    if len(mean) != 3 or len(deviation) != 3 or not all(0 < value < 1e6 for value in deviation):
        raise UserError(
            f"{what} wants three levels in 'pixel_mean' and three above 0 in 'pixel_std', found {mean[:4]} and "
            f"{deviation[:4]}: give an undamaged file"
        )
    in_rgb = mean[0] > mean[-1]
    step = 1 if in_rgb else -1
    colours = CaffeColours(
        order="rgb" if in_rgb else "bgr", mean=tuple(mean[::step]), deviation=tuple(deviation[::step])
    )
    return Conventions(colours, "1x1" if all(value == 1 for value in deviation) else "3x3")


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
    if key.startswith(_BODY):
        return f"backbone.body.{resnet_name(key.removeprefix(_BODY))}"
    beginning = next((beginning for beginning in _NAMES if key.startswith(beginning)), None)
    return None if beginning is None else _NAMES[beginning] + key.removeprefix(beginning)


def _background_first(name: str, rows: Tensor) -> Tensor:
    """The rows of a predictor with the background's first; any other tensor as it is."""
    if ".cls_score." in name:
        return torch.cat([rows[-1:], rows[:-1]])
    missing = 4 if ".bbox_pred." in name and name.startswith("roi_heads.") else int(".mask_fcn_logits." in name)
    return torch.cat([torch.zeros_like(rows[:missing]), rows])
