"""Move tensors to a device in few copies that do not wait, and know where reading their values would wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_reading_waits_everywhere: ContextVar[bool] = ContextVar("reading_waits_everywhere", default=False)


def reading_is_free(device: torch.device) -> bool:
    """Whether a step may look at values on ``device``: on the CPU it may, elsewhere that waits until all is computed.

    Code whose shapes could follow from values asks this first, and where it is false keeps shapes that do not.
    """
    return device.type == "cpu" and not _reading_waits_everywhere.get()


@contextmanager
def reading_waits_everywhere() -> Iterator[None]:
    """Inside, reading counts as waiting on the CPU, too, so that a CPU computes what a GPU would."""
    token = _reading_waits_everywhere.set(True)
    try:
        yield
    finally:
        _reading_waits_everywhere.reset(token)


def in_float64(tensor: Tensor) -> Tensor:
    """``tensor`` in float64 on its device; on the CPU where the device has no float64 (``mps``)."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` of the CPU in memory that a GPU ``device`` copies from without waiting; for others unchanged."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor
    with torch.cuda.device(device):
        return tensor.pin_memory()


def numbers_on(device: torch.device, values: Sequence[Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """Python's numbers, nested as ``values`` are, as a tensor on ``device``; from the CPU to a GPU nothing waits."""
    return pinned(torch.tensor(values, dtype=dtype), device).to(device, non_blocking=True)


def moved_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """``tensors`` on ``device``, in one copy for each type and device they come from; those there already as they are.

    From the CPU to a GPU nothing waits. What comes out of one copy shares its memory.
    """
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if not _lies_on(tensor, device):
            groups.setdefault((tensor.dtype, tensor.device), []).append(index)
    moved = list(tensors)
    for indices in groups.values():
        flat = torch.cat([tensors[index].flatten() for index in indices])
        flat = pinned(flat, device).to(device, non_blocking=device.type == "cuda")
        parts = flat.split([tensors[index].numel() for index in indices])
        for index, part in zip(indices, parts, strict=True):
            moved[index] = part.view(tensors[index].shape)
    return moved


def _lies_on(tensor: Tensor, device: torch.device) -> bool:
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)
