"""Load photos at the detector's size, and move their instances into that frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from weaksam.data.sample_photos import read_photo
from weaksam.structures import boxes as box_ops
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle, rle_from_mask


@dataclass(frozen=True)
class ResizedPhoto:
    """One photo at the detector's size: ``image`` uint8 ``(3, h, w)``, ``size`` ``(H, W)`` of the original."""

    image_id: str
    image: Tensor
    size: tuple[int, int]


def fit_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """``(h, w)`` of a photo of ``size`` (H, W) resized to ``short_side``, or less so that ``long_side`` is kept."""
    factor = min(short_side / min(size), long_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def load_photo(sample: Sample, short_side: int, long_side: int) -> ResizedPhoto:
    """Decode one photo and resize it (antialiased) to the detector's size."""
    (photo,) = load_scales(sample, short_side, long_side, (1.0,))
    return photo


def load_scales(
    sample: Sample, short_side: int, long_side: int, scales: Sequence[float], longest: int | None = None
) -> list[ResizedPhoto]:
    """Decode one photo and resize it (antialiased) to each of ``scales`` times the detector's size.

    With ``longest`` that alone limits the longer side, at every scale.
    """
    return resize_photo(read_photo(sample), short_side, long_side, scales, longest, sample.image_id)


def resize_photo(
    pixels: np.ndarray,
    short_side: int,
    long_side: int,
    scales: Sequence[float],
    longest: int | None = None,
    image_id: str = "",
) -> list[ResizedPhoto]:
    """`load_scales` of a decoded photo, uint8 RGB ``(H, W, 3)``."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)  # (3, H, W)
    size = (image.shape[1], image.shape[2])
    sizes = [fit_size(size, round(short_side * scale), longest or round(long_side * scale)) for scale in scales]
    resized = [TF.resize(image, list(of_scale), antialias=True).contiguous() for of_scale in sizes]
    return [ResizedPhoto(image_id, of_scale, size) for of_scale in resized]


def shrink(instances: Instances, size: tuple[int, int], to_size: tuple[int, int]) -> Instances:
    """Instances of a photo of ``size`` (H, W) resized to ``to_size`` (h, w); masks are shrunk once and kept as RLE.

    Of the marks only ``crowd`` stays (such regions are ignored in training), and the weights of the masks.
    """
    h, w = to_size
    boxes = box_ops.scale(box_ops.clip(instances.boxes, size), w / size[1], h / size[0])
    if instances.masks is None:
        return Instances(boxes, instances.labels, crowd=instances.crowd)
    masks = [mask_from_rle(rle)[None, None].float() for rle in instances.masks]
    small = [F.interpolate(mask, (h, w), mode="bilinear", antialias=True)[0, 0] >= 0.5 for mask in masks]
    masks_there = tuple(rle_from_mask(mask) for mask in small)
    weights = instances.mask_weights
    return Instances(boxes, instances.labels, masks=masks_there, crowd=instances.crowd, mask_weights=weights)
