"""Start a detector from the tensors of another: names of a published one, folded batch-norm, heads of other classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from weaksam.config import UserError, listed
from weaksam.models.backbones.architectures import first_modules_of_stages
from weaksam.models.detectors.mask_rcnn import MASK_KEYS
from weaksam.store.weights import load_into

_CLASS_KEYS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
"""Begin the names of the tensors that have rows for each class."""
_SCORES = "roi_heads.box_predictor.cls_score.weight"
_STEM, *_LAYERS = first_modules_of_stages("resnet50")
_BODY = {
    "backbone.body.conv1.": f"backbone.body.{_STEM}.0.",
    "backbone.body.bn1.": f"backbone.body.{_STEM}.1.",
    **{f"backbone.body.layer{i}.": f"backbone.body.{module}." for i, module in enumerate(_LAYERS, start=1)},
}
"""Beginnings of torchvision's names in a ResNet, and of ours, which count its modules."""
_NORMS = {r"\.conv(\d)$": r".bn\1", r"\.downsample\.0$": ".downsample.1", rf"\.{_STEM}\.0$": f".{_STEM}.1"}
"""Ends of the names of our convolutions, and of the batch-norms that are folded into them."""
_EPSILON = 1e-5
_OTHER_NETWORKS = {
    r"(model\.|module\.)?(transformer|encoder|decoder|bbox_head|class_embed|query_embedding)\b": (
        "a detector with queries, such as DINO"
    ),
    r"head\.(classification|regression)_head\.": "a detector of one stage",
    r"(fc|classifier|head|layer1|features|conv1|blocks)[._]": "a classifier, which can be {name}.backbone.weights",
    r"(stem|res2|res_conv1|res2_0)[._]": "a classifier, which can be {name}.backbone.weights",
}
"""How the names of networks begin that are no Faster or Mask R-CNN, and what to call these."""


class FirstWeights(NamedTuple):
    """Tensors to start from, and how to speak of them."""

    state: Mapping[str, Tensor]
    what: str
    """The setting and the file."""
    name: str
    """The stage."""
    classes: tuple[str, ...] = ()
    """Names of the classes that they tell apart, where they say so."""


def load_first_weights(
    model: GeneralizedRCNN, first: FirstWeights, classes: Sequence[str] = (), *, new_classes: bool = False
) -> list[str]:
    """Load weights into ``model``, every tensor accounted for; sentences about what was left out.

    The mask head of a Mask R-CNN that starts from a Faster R-CNN stays as it is, and so do, with ``new_classes``, the
    layers that have rows for each class, where their number or the names ``classes`` differ. A mask head is left out
    where ``model`` has none.

    Raises:
        UserError: weights of another network, shape or number of classes.
    """
    state = own_names(first.state)
    _refuse_other_networks(state, first)
    notes: list[str] = []
    missing: tuple[str, ...] = ()
    masks = [key for key in state if key.startswith(MASK_KEYS)]
    if isinstance(model, MaskRCNN):
        missing = () if masks else MASK_KEYS
    elif masks:
        state = {key: value for key, value in state.items() if key not in masks}
        notes.append(f"{first.what} is a Mask R-CNN: its mask head ({len(masks)} tensors, {masks[0]} ...) is left out")
    own = model.state_dict()
    if _SCORES in state:
        given, wanted = (max(len(tensors[_SCORES]) - 1, 0) for tensors in (state, own))
        if note := new_classes_note(given, wanted, first, classes, new_classes):
            state = {key: value for key, value in state.items() if not key.startswith(_CLASS_KEYS)}
            missing = (*missing, *_CLASS_KEYS)
            notes.append(note)
    remedy = f"give weights of such a detector, or set its sizes in {first.name} to those of the file"
    load_into(model, folded(state, own), first.what, allow_missing=missing, remedy=remedy)
    return notes


def new_classes_note(given: int, wanted: int, first: FirstWeights, classes: Sequence[str], new_classes: bool) -> str:
    """What to say where layers that tell the classes start anew, as ``new_classes`` asks; empty where they can stay.

    They can where the numbers of classes, ``given`` and ``wanted``, and the names that are known are the same. Raises:
        UserError: they cannot, and nobody asked.
    """
    other_names = bool(first.classes and classes) and tuple(classes) != first.classes
    if given == wanted and not other_names:
        return ""
    wanted_classes, given_classes = _in_words(wanted, classes), _in_words(given, first.classes)
    if not new_classes:
        raise UserError(
            f"{first.what} wants a detector of {wanted_classes}, found one of {given_classes}: give another, or start "
            f"its last layers anew with {first.name}.new_classes=true"
        )
    return f"{first.what} has {given_classes}: the layers that tell {wanted_classes} start anew"


def refuse_other_sizes(given: Mapping[str, Any], settings: Any, kind: str, first: FirstWeights) -> None:
    """`UserError` that names the fields of ``settings`` in which a detector of ``kind`` differs from ``given``."""
    different = {key: value for key, value in given.items() if value != getattr(settings, key)}
    if different:
        wanted = ", ".join(f"{key}={getattr(settings, key)}" for key in different)
        remedy = " ".join(f"{first.name}.{key}={value}" for key, value in different.items())
        raise UserError(
            f"{first.what} wants a {kind} of {wanted}, found one of "
            f"{', '.join(f'{key}={value}' for key, value in different.items())}: give another, or set {remedy}"
        )


def _in_words(num: int, names: Sequence[str]) -> str:
    return f"{num} classes ({listed(names)})" if names else f"{num} classes"


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of torchvision's detectors with ResNet-50 by our names; any others keep theirs."""
    beginnings = {key: next((begin for begin in _BODY if key.startswith(begin)), "") for key in state}
    return {
        _BODY[beginning] + key.removeprefix(beginning) if beginning else key: state[key]
        for key, beginning in beginnings.items()
    }


def folded(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the batch-norms folded that are so in ``own``: convolutions with a bias that ``state`` lacks."""
    tensors = dict(state)
    for key in own:
        conv, is_bias = key.removesuffix(".bias"), key.endswith(".bias")
        if not is_bias or key in state or f"{conv}.weight" not in state:
            continue
        norm = next((re.sub(end, other, conv) for end, other in _NORMS.items() if re.search(end, conv)), conv)
        held = [f"{norm}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        if norm == conv or not all(part in tensors for part in held):
            continue
        mean, variance, weight, bias = (tensors.pop(part) for part in held)
        fused = fuse_conv_bn_weights(tensors[f"{conv}.weight"], None, mean, variance, _EPSILON, weight, bias)
        tensors[f"{conv}.weight"], tensors[key] = (value.detach() for value in fused)
    return tensors


def _refuse_other_networks(state: Mapping[str, Tensor], first: FirstWeights) -> None:
    """`UserError` where no tensor is of the heads that Faster and Mask R-CNN have."""
    if any(key.startswith("roi_heads.") for key in state):
        return
    kinds = (kind for key in state for begin, kind in _OTHER_NETWORKS.items() if re.match(begin, key))
    kind = next(kinds, "tensors of another network").format(name=first.name)
    raise UserError(
        f"{first.what} wants the weights of a Faster or Mask R-CNN, found {kind} (its first tensor is "
        f"'{next(iter(state))[:60]}'): give the weights of such a detector"
    )
