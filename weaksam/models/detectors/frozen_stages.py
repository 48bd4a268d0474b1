"""Compute the frozen stages of a detector's backbone apart from the rest, so that their maps can be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

_MULTIPLE = 32
"""Photos are padded to multiples of so many pixels, as torchvision does."""


def num_frozen(model: GeneralizedRCNN) -> int:
    """How many modules of the backbone, from the first on, neither train nor give a map of the pyramid."""
    count = 0
    for name, module in model.backbone.body.items():
        trains = any(parameter.requires_grad for parameter in module.parameters())
        if trains or name in model.backbone.body.return_layers:
            return count
        count += 1
    return count


@torch.no_grad()
def frozen_map(model: GeneralizedRCNN, image: Tensor) -> Tensor:
    """The map ``(C, h', w')`` that the frozen stages give of a photo ``(3, h, w)`` padded by itself, as when detecting.

    It equals that of a batch, to rounding, where all photos have one padded size; in a batch padded further it would
    differ in the cells whose pixels reach beyond the photo's own padding.
    """
    hidden: Tensor = model.transform([image])[0].tensors
    for module in list(model.backbone.body.children())[: num_frozen(model)]:
        hidden = module(hidden)
    return hidden[0]


def losses_from_maps(
    model: GeneralizedRCNN,
    maps: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[Mapping[str, Tensor]],
    canvas: tuple[int, int] = (0, 0),
) -> dict[str, Tensor]:
    """Torchvision's named losses of photos of ``sizes`` (h, w), given by the `frozen_map` of each, and their targets.

    The maps are padded with zeros to the largest of them, and to that of a photo of the size ``canvas``.
    """
    model.train()
    frame = padded_size([*sizes, canvas])
    strides = [padded_size(sizes[:1])[axis] // maps[0].shape[1 + axis] for axis in (0, 1)]
    height, width = (side // stride for side, stride in zip(frame, strides, strict=True))
    padded = [F.pad(of_map, (0, width - of_map.shape[2], 0, height - of_map.shape[1])) for of_map in maps]
    hidden = torch.stack(padded).contiguous(memory_format=torch.channels_last)
    pyramid: dict[str, Tensor] = {}
    return_layers = model.backbone.body.return_layers
    for name, module in list(model.backbone.body.items())[num_frozen(model) :]:
        hidden = module(hidden)
        if name in return_layers:
            pyramid[return_layers[name]] = hidden
    features = model.backbone.fpn(pyramid)
    batch = ImageList(hidden.new_zeros(()).expand(len(maps), 3, *frame), list(sizes))
    proposals, losses = model.rpn(batch, features, list(targets))
    _, of_heads = model.roi_heads(features, proposals, batch.image_sizes, list(targets))
    return of_heads | losses


def padded_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """``(H, W)`` of the tensor that holds photos of ``sizes`` (h, w)."""
    height, width = (-(-max(size[axis] for size in sizes) // _MULTIPLE) * _MULTIPLE for axis in (0, 1))
    return height, width
