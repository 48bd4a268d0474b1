"""Measure boxes and stability of SAM's mask logits in the photo, as SAM's mask generator does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.structures.boxes import scale

STABILITY_OFFSET = 1.0  # logits, as in SAM's automatic mask generator
MASKS_ON_CPU, MASKS_ELSEWHERE = 2, 64  # masks enlarged at once: few stay in a CPU's cache


@dataclass(frozen=True)
class Frame:
    """How a photo of ``size`` (H, W) lies in SAM's square input of ``side`` pixels: scaled to ``input_size`` (h, w).

    ``stretched``: it fills the square whatever its proportions, as since SAM 2, and masks come back in one step.
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    side: int
    stretched: bool = False


def enlarge(logits: Tensor, frame: Frame) -> Tensor:
    """Logits ``(M, g, g)`` of the padded square at the photo's size: ``(M, H, W)``, bit for bit as SAM enlarges them.

    SAM enlarges the whole square, cuts off the padding and resizes to the photo; here the rows and columns that only
    the padding needs are cut off first. M = 0 gives none.
    """
    if len(logits) == 0:
        return logits.new_zeros(0, *frame.size)
    if frame.stretched:
        return F.interpolate(logits[:, None].float(), frame.size, mode="bilinear", align_corners=False)[:, 0]
    ratio, exact = divmod(frame.side, logits.shape[-1])
    inner, enlarged = logits[:, None].float(), (frame.side, frame.side)
    if exact == 0:  # a whole ratio: what is cut off changes no other pixel
        h, w = (min(logits.shape[-1], length // ratio + 2) for length in frame.input_size)
        inner, enlarged = inner[..., :h, :w], (h * ratio, w * ratio)
    fine = F.interpolate(inner, enlarged, mode="bilinear", align_corners=False)
    fine = fine[..., : frame.input_size[0], : frame.input_size[1]]
    return F.interpolate(fine, frame.size, mode="bilinear", align_corners=False)[:, 0]


def measure(logits: Tensor, frame: Frame, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    """Half-open photo-pixel boxes ``(M, 4)`` and stability ``(M,)`` in [0, 1] of mask logits ``(M, g, g)``.

    On the enlarged masks, as ``SamAutomaticMaskGenerator`` does, a few at a time. An empty mask has a box of zeros.
    """
    at_once = MASKS_ON_CPU if logits.device.type == "cpu" else MASKS_ELSEWHERE
    boxes, stability = logits.new_zeros(len(logits), 4), logits.new_zeros(len(logits))
    for start in range(0, len(logits), at_once):
        part = slice(start, start + at_once)
        fine = enlarge(logits[part], frame)
        inner, outer = ((fine > threshold + sign * STABILITY_OFFSET).sum((1, 2)) for sign in (1, -1))
        stability[part] = inner / outer.clamp(min=1)
        fine = fine > threshold
        x1, x2 = _span(fine.any(1))
        y1, y2 = _span(fine.any(2))
        boxes[part] = torch.stack([x1, y1, x2, y2], 1).float()
    return boxes, stability


def measure_in_input(logits: Tensor, frame: Frame, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    """As ``measure``, but of a photo larger than SAM's input in that input's frame: 3 times less for 2048 pixels.

    Boxes ``(M, 4)`` and stability ``(M,)``. A box is off by at most a pixel of SAM's input, but where a speck of the
    mask lies between the photo's pixels.
    """
    if max(frame.size) <= max(frame.input_size):
        return measure(logits, frame, threshold)
    (height, width), (h, w) = frame.size, frame.input_size
    boxes, stability = measure(logits, Frame((h, w), (h, w), frame.side), threshold)
    return scale(boxes, width / w, height / h), stability


def _span(hit: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first True in ``(M, L)``, and one more than that of the last; zeros where there is none."""
    length = hit.shape[1]
    last = length - hit.flip(1).int().argmax(1)
    return hit.int().argmax(1), torch.where(hit.any(1), last, 0)
