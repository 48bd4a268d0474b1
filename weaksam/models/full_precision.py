"""Compute in float32 at least, whatever autocast made of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """``tensor`` in float32; float64 stays as it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
