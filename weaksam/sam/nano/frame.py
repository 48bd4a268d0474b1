"""Turn sam_nano's mask logits into masks in its working frame, with their boxes and stability."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.sam.mask_geometry import STABILITY_OFFSET
from weaksam.sam.nano.model import INPUT_SIZE, MASK_SIZE
from weaksam.structures.boxes import scale

FRAME_SIZE = 128  # long side of the working frame, pixels
WORD = 8  # flags in one 64-bit word


def frame_size(covered: tuple[int, int]) -> tuple[int, int]:
    """``(h, w)`` of the working frame of a photo that covers ``(h, w)`` of the 256-pixel input."""
    height, width = (max(1, round(side * FRAME_SIZE / INPUT_SIZE)) for side in covered)
    return height, width


def working_logits(logits: Tensor, covered: tuple[int, int]) -> Tensor:
    """Decoder logits ``(P, 3, 64, 64)`` resized to the working frame, the padding cut off: ``(P, 3, h, w)``.

    ``covered`` is the part ``(h, w)`` of the 256-pixel input that is photo.
    """
    height, width = frame_size(covered)
    if len(logits) == 0:
        return logits.new_zeros(0, logits.shape[1], height, width)
    large = F.interpolate(logits, size=(FRAME_SIZE, FRAME_SIZE), mode="bilinear", align_corners=False)
    return large[..., :height, :width]


def stability(logits: Tensor) -> Tensor:
    """SAM's stability score ``(P, 3)`` in [0, 1]: area above +1 over area above -1; 0 where the latter is empty."""
    inner = (logits > STABILITY_OFFSET).sum((2, 3))
    outer = (logits > -STABILITY_OFFSET).sum((2, 3))
    return inner / outer.clamp(min=1)


def framed(logits: Tensor, covered: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Masks ``(N, h, w)``, stability ``(N,)``, photo-pixel boxes ``(N, 4)`` of logits ``(N, 64, 64)`` on the CPU.

    The same as ``working_logits``, ``> 0``, ``stability`` and ``boxes_in_photo``, a dozen times faster: resized as a
    matrix product and a blend of rows, and counted eight flags at a time. ``size`` is the photo's ``(H, W)``.
    """
    height, width = frame_size(covered)
    frame = _enlarged(logits, height, width)
    inner, outer = (_areas(_columns(_above(frame, limit))) for limit in (STABILITY_OFFSET, -STABILITY_OFFSET))
    flags = _above(frame, 0.0)
    rows = flags.view(torch.int64).sum(2) != 0  # (N, h)
    edges = torch.cat([_extent(_columns(flags) != 0), _extent(rows)], 1)[:, [0, 2, 1, 3]]
    boxes = scale(edges, size[1] / width, size[0] / height)
    return flags[..., :width], inner / outer.clamp(min=1), boxes


def areas(logits: Tensor) -> Tensor:
    """Pixels above 0 ``(...,)`` of logits ``(..., 64, 64)`` on the CPU."""
    return _areas(_columns(_above(logits.flatten(0, -3), 0.0))).view(logits.shape[:-2])


def _above(frame: Tensor, limit: float) -> Tensor:
    """Bool flags ``(N, h, w)`` of a contiguous float frame; numpy compares ten times as fast as torch."""
    flags = torch.empty(frame.shape, dtype=torch.bool)
    np.greater(frame.numpy(), np.float32(limit), out=flags.numpy())
    return flags


def _columns(flags: Tensor) -> Tensor:
    """Flags set per column: uint8 ``(N, w)`` of bool ``(N, h, w)``, h at most 255 and w a multiple of eight."""
    return flags.view(torch.int64).sum(1).view(torch.uint8)


def _areas(columns: Tensor) -> Tensor:
    """Flags set ``(N,)`` from the counts per column."""
    return columns.sum(1)


def _extent(flags: Tensor) -> Tensor:
    """First and one past the last set flag ``(N, 2)`` float32 of bool ``(N, n)``; zeros where none is set."""
    index = torch.arange(flags.shape[1], dtype=torch.float32)
    first = torch.where(flags, index, flags.shape[1]).amin(1)
    last = torch.where(flags, index + 1, 0.0).amax(1)
    return torch.stack([torch.minimum(first, last), last], 1)


@lru_cache(maxsize=256)
def _widening(width: int) -> Tensor:
    """``(64, w)`` that resizes rows of logits to the frame's and keeps ``width`` of them, w being whole words."""
    wide = F.interpolate(torch.eye(MASK_SIZE)[:, None], size=FRAME_SIZE, mode="linear", align_corners=False)[:, 0]
    return wide[:, : -(-width // WORD) * WORD].contiguous()


def _enlarged(logits: Tensor, height: int, width: int) -> Tensor:
    """Logits ``(N, 64, 64)`` in the frame ``(N, h, w)``, w rounded up to whole words with minus infinity."""
    rows = min(MASK_SIZE, height // 2 + 1)  # no more are seen in the frame
    wide = torch.matmul(logits[:, :rows], _widening(width))  # (N, rows, w)
    wide[..., width:] = -torch.inf
    frame = wide.new_empty(len(wide), rows, 2, wide.shape[2])
    # Twice as many rows: each is a quarter of the neighbour on its side and three quarters of its own
    torch.lerp(wide[:, 1:], wide[:, :-1], 0.25, out=frame[:, 1:, 0])
    torch.lerp(wide[:, :-1], wide[:, 1:], 0.25, out=frame[:, :-1, 1])
    frame[:, 0, 0], frame[:, -1, 1] = wide[:, 0], wide[:, -1]
    frame = frame.flatten(1, 2)
    return frame if frame.shape[1] == height else frame[:, :height].contiguous()
