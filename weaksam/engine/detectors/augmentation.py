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
    fixed_views: int | None = Field(None, ge=1)
    """So many views of each photo are drawn once and repeated over the epochs, and the backbone's frozen stages are
    computed once for each; none: a new view in every epoch."""

    def view_in(self, epoch: int) -> int:
        """Number of the view that ``epoch`` shows; with the seed and the image id it decides the random draw."""
        return epoch if self.fixed_views is None else epoch % self.fixed_views


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
    state = generator.get_state()
    view = vary_image(image, augment, generator)
    boxes, masks = vary_instances(instances, (image.shape[1], image.shape[2]), augment, generator.set_state(state))
    return view, boxes, masks


def vary_image(image: Tensor, augment: AugmentSettings, generator: torch.Generator) -> Tensor:
    """The image of `vary` alone, of a ``generator`` in the same state."""
    draws = _draws(generator)
    size = _scaled_size((image.shape[1], image.shape[2]), draws[0], augment)
    view = image.float()[None] / 255.0
    view = F.interpolate(view, size, mode="bilinear", antialias=size < tuple(image.shape[1:]), align_corners=False)[0]
    view = view.flip(-1) if _mirrored(draws, augment) else view
    if augment.crop_size is not None:
        rows, columns = _window(size, augment.crop_size, generator)
        view = view[:, rows, columns]
    return change_colours(view, draws[2:], augment.colour_jitter)


def vary_instances(
    instances: Instances, photo_size: tuple[int, int], augment: AugmentSettings, generator: torch.Generator
) -> tuple[Instances, Tensor | None]:
    """Boxes and masks of `vary` alone, of a photo of ``photo_size`` (h, w), of a ``generator`` in the same state."""
    draws = _draws(generator)
    size = _scaled_size(photo_size, draws[0], augment)
    boxes = box_ops.scale(instances.boxes, size[1] / photo_size[1], size[0] / photo_size[0])
    masks = _scaled_masks(instances, size)
    if _mirrored(draws, augment):
        boxes = box_ops.hflip(boxes, size[1])
        masks = None if masks is None else masks.flip(-1)
    if augment.crop_size is not None:
        rows, columns = _window(size, augment.crop_size, generator)
        masks = None if masks is None else masks[:, rows, columns]
        corner = boxes.new_tensor([columns.start, rows.start, columns.start, rows.start])
        boxes = box_ops.clip(boxes - corner, (rows.stop - rows.start, columns.stop - columns.start))
    return instances.replace(boxes=boxes, masks=None), masks


def _mirrored(draws: Sequence[float], augment: AugmentSettings) -> bool:
    """Whether the view of these draws is mirrored."""
    return augment.flip and draws[1] < 0.5


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


def _window(size: tuple[int, int], crop_size: int, generator: torch.Generator) -> tuple[slice, slice]:
    """Rows and columns of a window of ``crop_size`` in a view of ``size`` (h, w), drawn evenly; all where it fits."""
    down, across = torch.rand(2, generator=generator).tolist()
    top = int(down * (max(size[0] - crop_size, 0) + 1))
    left = int(across * (max(size[1] - crop_size, 0) + 1))
    return slice(top, min(top + crop_size, size[0])), slice(left, min(left + crop_size, size[1]))


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
