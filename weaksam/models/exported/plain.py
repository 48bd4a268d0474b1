"""Exchange the fast layers of a network for torch's own, which exporters know."""

from __future__ import annotations

import math

import torch
from torch import nn

from weaksam.models.backbones.clamping import NO_BOUNDS, RELU, Bounds
from weaksam.models.backbones.fast_convolutions import FastConv2d
from weaksam.models.backbones.products import FastLinear


@torch.no_grad()
def with_plain_layers(module: nn.Module) -> nn.Module:
    """``module``, in place, with `torch.nn` convolutions and linear layers; outputs stay the same to rounding.

    Frozen batch-norms are folded into the weights once and for all, so the state dict has other names after it.
    """
    for name, child in module.named_children():
        if isinstance(child, FastConv2d):
            setattr(module, name, _plain_convolution(child))
        elif isinstance(child, FastLinear):
            child.__class__ = nn.Linear
        else:
            with_plain_layers(child)
    return module


def _plain_convolution(fast: FastConv2d) -> nn.Module:
    """The convolution with its batch-norm folded in, and the activation behind it where it has one."""
    weight, bias = fast.folded()
    size: tuple[int, int] = fast.kernel_size  # type: ignore[assignment]
    conv = nn.Conv2d(
        fast.in_channels,
        fast.out_channels,
        size,
        fast.stride,  # type: ignore[arg-type]
        fast.padding,
        fast.dilation,  # type: ignore[arg-type]
        fast.groups,
        bias is not None,
    )
    conv.weight.copy_(weight)
    if bias is not None and conv.bias is not None:
        conv.bias.copy_(bias)
    return conv if fast.bounds == NO_BOUNDS else nn.Sequential(conv, _activation(fast.bounds))


def _activation(bounds: Bounds) -> nn.Module:
    low, high = bounds
    return nn.ReLU() if bounds == RELU or high == math.inf else nn.Hardtanh(low, high)
