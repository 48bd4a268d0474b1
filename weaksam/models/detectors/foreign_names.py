"""Name the tensors of our detectors as detectron2 and mmdet do; `published` and `dino.names` read them back."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.models.backbones.architectures import first_modules_of_stages

_STEM, *_LAYERS = first_modules_of_stages("resnet50")
_RESNET = {
    rf"^backbone\.body\.{_STEM}\.0\.": "conv1.",
    rf"^backbone\.body\.{_STEM}\.1\.": "bn1.",
    **{rf"^backbone\.body\.{module}\.": f"layer{number}." for number, module in enumerate(_LAYERS, start=1)},
}
"""Beginnings of our names in a ResNet, which count its modules, and of torchvision's."""
_DETECTRON2_RESNET = {
    r"^bn1\.": "stem.conv1.norm.",
    r"^conv1\.": "stem.conv1.",
    r"^layer(\d)\.": lambda match: f"res{int(match[1]) + 1}.",
    r"\.bn(\d)\.": r".conv\1.norm.",
    r"\.downsample\.1\.": ".shortcut.norm.",
    r"\.downsample\.0\.": ".shortcut.",
}
_DETECTRON2 = {
    r"backbone\.fpn\.inner_blocks\.(\d)\.0\.": lambda match: f"backbone.fpn_lateral{int(match[1]) + 2}.",
    r"backbone\.fpn\.layer_blocks\.(\d)\.0\.": lambda match: f"backbone.fpn_output{int(match[1]) + 2}.",
    r"rpn\.head\.conv\.0\.0\.": "proposal_generator.rpn_head.conv.",
    r"rpn\.head\.cls_logits\.": "proposal_generator.rpn_head.objectness_logits.",
    r"rpn\.head\.bbox_pred\.": "proposal_generator.rpn_head.anchor_deltas.",
    r"roi_heads\.box_head\.fc6\.": "roi_heads.box_head.fc1.",
    r"roi_heads\.box_head\.fc7\.": "roi_heads.box_head.fc2.",
    r"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.": r"roi_heads.box_predictor.\1.",
    r"roi_heads\.mask_head\.(\d)\.0\.": lambda match: f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}.",
    r"roi_heads\.mask_predictor\.conv5_mask\.": "roi_heads.mask_head.deconv.",
    r"roi_heads\.mask_predictor\.mask_fcn_logits\.": "roi_heads.mask_head.predictor.",
}
"""Beginnings of our names behind the ResNet, and of detectron2's; what follows is the same."""
_UNIT_VARIANCE = 1 - 1e-5
"""To which a batch-norm adds 1e-5, and divides by nothing."""
_SAME_IN_MMDET = re.compile(
    r"(neck|encoder|decoder|bbox_head|dn_query_generator|memory_trans_fc|memory_trans_norm|query_embedding)\..+|level_embed"
)


def detectron2_names(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors of our Faster or Mask R-CNN (ResNet-50, full pyramid) by detectron2's names, in its order of classes.

    The background moves from the first to the last class, and its offsets and mask, which are never read, are left out.
    A batch-norm that was folded into its convolution becomes one that only adds. Read back by `read_published` every
    other tensor is the same, bit by bit. ``what`` names the weights in the error. Raises:
        UserError: a name that has no place in such a detector.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in _unfolded(state).items():
        name = _detectron2_name(key)
        if name is None:
            raise UserError(
                f"{what} must be a Faster or Mask R-CNN with resnet50 and pyramid=full for detectron2, found the "
                f"tensor '{key[:60]}', which has no place there: train one with retrain.backbone.name=resnet50 "
                "retrain.pyramid=full"
            )
        renamed[name] = _background_last(key, value)
    if "backbone.fpn_lateral5.weight" not in renamed or "roi_heads.box_predictor.cls_score.weight" not in renamed:
        raise UserError(
            f"{what} must be a Faster or Mask R-CNN with resnet50 and pyramid=full for detectron2, found one without "
            "all levels or heads: train one with retrain.backbone.name=resnet50 retrain.pyramid=full"
        )
    return renamed


def mmdet_names(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors of our DINO with a ResNet-50 by mmdet's names, the same bit by bit. Raises:

    UserError: a name that has no place there; a DINO of ``implementation=detrex`` computes another way.
    """
    renamed = {}
    for key, value in state.items():
        resnet = _torchvision_name(key)
        name = key if _SAME_IN_MMDET.fullmatch(key) else None if resnet is None else f"backbone.{resnet}"
        if name is None or key == "neck.convs.0.conv.bias":
            raise UserError(
                f"{what} must be a DINO with resnet50 and implementation=mmdet for mmdet, found the tensor "
                f"'{key[:60]}', which has no place there: train one with retrain.detector=dino"
            )
        renamed[name] = value
    if "dn_query_generator.label_embedding.weight" not in renamed:
        raise UserError(
            f"{what} must be a DINO for mmdet, found another network: give weights of retrain.detector=dino"
        )
    return renamed


def _torchvision_name(key: str) -> str | None:
    """Torchvision's name for one of ours in a ResNet; None outside of it."""
    for pattern, beginning in _RESNET.items():
        if re.match(pattern, key):
            return re.sub(pattern, beginning, key)
    return None


def _detectron2_name(key: str) -> str | None:
    """Detectron2's name for one of ours; None where it has none."""
    name = _torchvision_name(key)
    if name is not None:
        for pattern, replacement in _DETECTRON2_RESNET.items():
            name = re.sub(pattern, replacement, name)
        return f"backbone.bottom_up.{name}"
    for pattern, replacement in _DETECTRON2.items():
        if re.match(pattern, key):
            return re.sub(f"^{pattern}", replacement, key)
    return None


def _unfolded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with a batch-norm that only adds in place of the bias of each convolution in the ResNet."""
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        conv = key.removesuffix(".bias")
        if not key.startswith("backbone.body.") or not key.endswith(".bias") or state[f"{conv}.weight"].ndim != 4:
            tensors[key] = value
            continue
        norm = re.sub(r"\.conv(\d)$", r".bn\1", re.sub(r"\.downsample\.0$", ".downsample.1", conv))
        norm = f"backbone.body.{_STEM}.1" if conv == f"backbone.body.{_STEM}.0" else norm
        tensors |= {f"{norm}.weight": torch.ones_like(value), f"{norm}.bias": value}
        tensors |= {
            f"{norm}.running_mean": torch.zeros_like(value),
            f"{norm}.running_var": torch.full_like(value, _UNIT_VARIANCE),
        }
    return tensors


def _background_last(key: str, rows: Tensor) -> Tensor:
    """The rows of a predictor with the background's last, or without it; any other tensor as it is."""
    if key.startswith("roi_heads.box_predictor.cls_score."):
        return torch.cat([rows[1:], rows[:1]])
    if key.startswith("roi_heads.box_predictor.bbox_pred."):
        return rows[4:]
    return rows[1:] if ".mask_fcn_logits." in key else rows
