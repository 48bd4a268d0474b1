"""Vary a training photo with its boxes and masks: mirror, resize, cut, change colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from weaksam.config import Settings
from weaksam.structures import boxes as box_ops
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle


class AugmentSettings(Settings):
    """How training photos are varied; every photo's draw follows from the seed, its id and the epoch."""

    flip: bool = True
    """Mirror half of the photos left to right."""
    smallest_scale: float = Field(0.7, ge=0.1, le=1)
    """Photos are resized once more by a factor between this ..."""
    largest_scale: float = Field(1.1, ge=1, le=4)
    """... and this."""
    scales: tuple[Annotated[float, Field(gt=0.1, le=4)], ...] = ()
    """Resize by one of these factors instead of any between the two; none: as above."""
    crop_size: int | None = Field(None, ge=64)
    """A resized photo that is wider or higher than this, in pixels, is cut to a window of it anywhere; none: never.
    With scales from 0.1 to 2 that is large-scale jittering (Ghiasi et al., CVPR 2021)."""
    longest_view: int | None = Field(None, ge=64)
    """Pixels of a view's longer side at most, whatever its factor; none: no limit."""
    colour_jitter: float = Field(0.2, ge=0, lt=1)
    """Brightness, contrast and saturation each change by at most this share."""


def view_size(size: tuple[int, int], augment: AugmentSettings, generator: torch.Generator) -> tuple[int, int]:
    """``(h', w')`` of the view that `vary` makes of a photo of ``size`` (h, w) with a ``generator`` in this state."""
    height, width = _scaled_size(size, _draws(generator)[0], augment)
    most = max(height, width) if augment.crop_size is None else augment.crop_size
    return min(height, most), min(width, most)


def vary(
    image: Tensor, instances: Instances, augment: AugmentSettings, generator: torch.Generator
) -> tuple[Tensor, Instances, Tensor | None]:
    """One random view: float image ``(3, h', w')`` in 0..1, its boxes, and its masks bool ``(N, h', w')`` if any.

    The draws are always made in the same order, whether they are used or not. Of an object outside a cut view no pixel
    is left, nor any area of its box.
    """
    draws = _draws(generator)
    size = _scaled_size((image.shape[1], image.shape[2]), draws[0], augment)
    view = image.float()[None] / 255.0
    view = F.interpolate(view, size, mode="bilinear", antialias=size < tuple(image.shape[1:]), align_corners=False)[0]
    boxes = box_ops.scale(instances.boxes, size[1] / image.shape[2], size[0] / image.shape[1])
    masks = _scaled_masks(instances, size)
    if augment.flip and draws[1] < 0.5:
        view, boxes = view.flip(-1), box_ops.hflip(boxes, size[1])
        masks = None if masks is None else masks.flip(-1)
    if augment.crop_size is not None:
        top, left = _corner(size, augment.crop_size, generator)
        view = view[:, top : top + augment.crop_size, left : left + augment.crop_size]
        masks = None if masks is None else masks[:, top : top + augment.crop_size, left : left + augment.crop_size]
        boxes = box_ops.clip(boxes - boxes.new_tensor([left, top, left, top]), (view.shape[1], view.shape[2]))
    return change_colours(view, draws[2:], augment.colour_jitter), instances.replace(boxes=boxes, masks=None), masks


def _draws(generator: torch.Generator) -> list[float]:
    """What decides about a view, each in [0, 1): its scale, its mirroring and its colours."""
    draws: list[float] = torch.rand(5, generator=generator).tolist()
    return draws


def _scale(draw: float, augment: AugmentSettings) -> float:
    """The drawn factor: one of ``scales``, else between the smallest and the largest."""
    if augment.scales:
        return augment.scales[int(draw * len(augment.scales))]
    return augment.smallest_scale + draw * (augment.largest_scale - augment.smallest_scale)


def _scaled_size(size: tuple[int, int], draw: float, augment: AugmentSettings) -> tuple[int, int]:
    """``size`` (h, w) times the drawn scale, or less so that ``longest_view`` is kept; at least 32 pixels a side."""
    scale = _scale(draw, augment)
    if augment.longest_view is not None:
        scale = min(scale, augment.longest_view / max(size))
    return max(32, round(size[0] * scale)), max(32, round(size[1] * scale))


def _corner(size: tuple[int, int], crop_size: int, generator: torch.Generator) -> tuple[int, int]:
    """Top and left of a window of ``crop_size`` in a view of ``size`` (h, w), drawn evenly; 0 where it is not cut."""
    down, across = torch.rand(2, generator=generator).tolist()
    return int(down * (max(size[0] - crop_size, 0) + 1)), int(across * (max(size[1] - crop_size, 0) + 1))


def change_colours(image: Tensor, draws: Sequence[float], strength: float) -> Tensor:
    """``image (3, H, W)`` in 0..1 with brightness, contrast and saturation times ``1 - strength`` to ``1 + strength``.

    The three ``draws`` in [0, 1) say where between the two; a ``strength`` of 0 returns the image itself.
    """
    if strength == 0:
        return image
    brightness, contrast, saturation = (1 + strength * (2 * draw - 1) for draw in draws)
    image = TF.adjust_brightness(image, brightness)
    image = TF.adjust_contrast(image, contrast)
    return TF.adjust_saturation(image, saturation)


def _scaled_masks(instances: Instances, size: tuple[int, int]) -> Tensor | None:
    """Masks of the instances at ``size`` (h, w), bool ``(N, h, w)``; None where they carry none."""
    if instances.masks is None:
        return None
    if not instances.masks:
        return torch.zeros((0, *size), dtype=torch.bool)
    masks = torch.stack([mask_from_rle(rle) for rle in instances.masks]).float()
    return F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0] >= 0.5
