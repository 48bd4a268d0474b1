"""Apply ReLU and ReLU6 to the output of a function that writes its own gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Bounds = tuple[float, float]
"""Lowest and highest output."""
NO_BOUNDS: Bounds = (-float("inf"), float("inf"))
RELU: Bounds = (0.0, float("inf"))
RELU6: Bounds = (0.0, 6.0)


def clamped(x: Tensor, bounds: Bounds) -> Tensor:
    """``x``, changed in place to lie within ``bounds``."""
    return x if bounds == NO_BOUNDS else F.hardtanh(x, *bounds, inplace=True)


def of_clamped(gradient: Tensor, outputs: Sequence[Tensor], bounds: Bounds) -> Tensor:
    """The gradient before the clamping of ``outputs[0]`` to ``bounds``; no outputs: nothing was clamped."""
    return torch.ops.aten.hardtanh_backward(gradient, outputs[0], *bounds) if outputs else gradient
