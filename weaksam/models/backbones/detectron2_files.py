"""Read weights as detectron2 hands them around: pickled arrays, names of a ResNet-50, and how it sees photos."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.proposals.plain_pickle import read_plain_pickle
from weaksam.models.backbones.colours import IMAGENET, CaffeColours, ColourSettings


class Conventions(NamedTuple):
    """What a network's weights expect and do not say themselves."""

    colours: ColourSettings
    """How pixels become its numbers."""
    stride_in: Literal["1x1", "3x3"]
    """Which convolution of a residual block holds the stride."""


DETECTRON2 = Conventions(CaffeColours(mean=(123.675, 116.28, 103.53)), "1x1")
"""MSRA's ResNet-50 and what detectron2 trained from it, by detectron2's default configuration (``MODEL.PIXEL_MEAN``,
``INPUT.FORMAT`` and ``RESNETS.STRIDE_IN_1X1``)."""
TORCHVISION = Conventions(IMAGENET, "3x3")
"""Torchvision's weights, also in detectron2's names (its ``convert-torchvision-to-d2.py``)."""

INSIDE_BODY = {
    r"^stem\.conv1\.norm\.": "bn1.",
    r"^stem\.": "",
    r"^res(\d)\.": lambda match: f"layer{int(match[1]) - 1}.",
    r"conv(\d)\.norm\.": r"bn\1.",
    r"shortcut\.norm\.": "downsample.1.",
    r"shortcut\.": "downsample.0.",
}
"""Parts of detectron2's names of a ResNet and torchvision's."""
_BRANCHES = {"1": "downsample.0", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_NORMS = {"1": "downsample.1", "2a": "bn1", "2b": "bn2", "2c": "bn3"}
"""Caffe2's branches of a residual block and torchvision's modules."""
_TENSORS = {
    "w": "conv.weight",
    "b": "conv.bias",
    **dict.fromkeys(("bn_s", "bn_gamma"), "weight"),
    **dict.fromkeys(("bn_b", "bn_beta"), "bias"),
    **dict.fromkeys(("bn_rm", "bn_running_mean"), "running_mean"),
    **dict.fromkeys(("bn_riv", "bn_running_var"), "running_var"),
}
"""Caffe2's names of a convolution's tensors and of its batch-norm's, and torch's."""
_CAFFE2 = re.compile(r"(?:res_)?conv1_(.+)|res(\d)_(\d+)_branch(1|2[abc])_(.+)")
"""What the stem holds; or stage, block, branch and what that holds."""
_CLASSIFIER = re.compile(r"(fc1000|pred|linear)[._].*|(stem\.)?fc\..*")


class PublishedResNet(NamedTuple):
    """Weights of a ResNet-50 by torchvision's names, without its classifier, and what they expect."""

    state: dict[str, Tensor]
    conventions: Conventions


def read_arrays(path: Path, what: str) -> dict[str, Tensor]:
    """The arrays of detectron2's or Caffe2's ``.pkl`` by name, itself or under ``model`` or ``blobs``.

    What Caffe2's optimizer kept (``*_momentum``) is left out. ``what`` names the wanted weights in the error. Raises:
        UserError: the file is missing, damaged, or no pickle of named arrays alone.
    """
    content = read_plain_pickle(path, f"weights of {what}")
    arrays = content if isinstance(content, dict) else {}
    arrays = arrays.get("model", arrays.get("blobs", arrays))
    if not isinstance(arrays, dict) or not any(isinstance(value, np.ndarray) for value in arrays.values()):
        raise UserError(f"wanted weights of {what} at {path}, found a pickle without named arrays: give another file")
    return {
        str(key): torch.from_numpy(value)
        for key, value in arrays.items()
        if isinstance(value, np.ndarray) and not str(key).endswith("_momentum")
    }


def read_resnet(path: Path, what: str) -> PublishedResNet:
    """A ResNet-50 of a ``.pkl`` file in the names of detectron2 (``res2.0.conv1.weight``) or of MSRA in Caffe2's.

    ``what`` names the wanted weights in the error. Raises:
        UserError: as `read_arrays`, or the file holds a name that has no place in a ResNet-50.
    """
    arrays = {key: value for key, value in read_arrays(path, what).items() if not _CLASSIFIER.fullmatch(key)}
    if any(_CAFFE2.fullmatch(key) for key in arrays):
        return PublishedResNet(from_caffe2(arrays, what), DETECTRON2)
    return PublishedResNet({resnet_name(key): value for key, value in arrays.items()}, TORCHVISION)


def resnet_name(key: str) -> str:
    """Torchvision's name for one of detectron2's ResNet, such as ``layer1.0.downsample.0.weight``."""
    for pattern, replacement in INSIDE_BODY.items():
        key = re.sub(pattern, replacement, key)
    return key


def from_caffe2(arrays: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Tensors by torchvision's names of MSRA's ResNet in Caffe2's; every name is accounted for.

    A batch-norm that holds a scale and a shift alone gets mean 0 and variance 1. The bias of a convolution before a
    batch-norm is taken from that one's mean, which computes the same. Raises:
        UserError: a name that has no place in a ResNet.
    """
    state: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for key, value in arrays.items():
        place = _place_in_resnet(key)
        if place is None:
            raise UserError(
                f"{what} wants a ResNet-50 in Caffe2's names (conv1_w, res2_0_branch2a_w), found the tensor '{key}', "
                "which has no place in one: give the weights of such a network"
            )
        conv, norm, kind = place
        if kind == "conv.bias":
            biases[norm] = value
        else:
            state[f"{conv}.weight" if kind == "conv.weight" else f"{norm}.{kind}"] = value
    for norm in {name.removesuffix(".bias") for name in state if name.endswith(".bias")}:
        bias = state[f"{norm}.bias"]
        mean = state.setdefault(f"{norm}.running_mean", torch.zeros_like(bias))
        state.setdefault(f"{norm}.running_var", torch.ones_like(bias))
        if norm in biases:
            state[f"{norm}.running_mean"] = mean - biases[norm]
    return state


def _place_in_resnet(key: str) -> tuple[str, str, str] | None:
    """Torchvision's convolution and batch-norm that a name of Caffe2 belongs to, and what it is; None for no place."""
    match = _CAFFE2.fullmatch(key)
    if match is None:
        return None
    of_stem, stage, block, branch, of_branch = match.groups()
    kind = _TENSORS.get(of_stem or of_branch)
    if kind is None:
        return None
    if of_stem:
        return "conv1", "bn1", kind
    inside = f"layer{int(stage) - 1}.{block}"
    return f"{inside}.{_BRANCHES[branch]}", f"{inside}.{_NORMS[branch]}", kind


def conventions_of_file(path: Path) -> Conventions | None:
    """What the ResNet in a ``.pkl`` file expects; None for any other file, and for one that cannot be read."""
    if path.suffix != ".pkl" or not path.is_file():
        return None
    state = path.stat()
    return _conventions_of_pickle(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _conventions_of_pickle(path: Path, *_: int) -> Conventions | None:
    """Kept by the file's time and size, since settings are asked several times in a run."""
    try:
        return read_resnet(path, "a backbone").conventions
    except UserError:  # said when the weights are loaded
        return None
