"""Compute convolutions with the batch-norm and activation behind them in fewer passes over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d

from weaksam.models.backbones import winograd
from weaksam.models.backbones.clamping import NO_BOUNDS, RELU, RELU6, Bounds, clamped, of_clamped
from weaksam.models.backbones.products import FastLinear, product, product_gradients

_BOUNDS: dict[type[nn.Module], Bounds] = {nn.ReLU: RELU, nn.ReLU6: RELU6}


class FastConv2d(nn.Conv2d):
    """A convolution that folds a frozen batch-norm into its weights at each call, and clamps its own output.

    Weights and batch-norm keep their names and values in the state dict, and the gradient reaches the convolution's own
    weights. On the CPU a 1x1 convolution of a ``channels_last`` map is one matrix product.
    """

    norm: tuple[FrozenBatchNorm2d, ...]
    """The batch-norm that is folded in; none or one. A tuple, so that it is not registered a second time."""
    bounds: Bounds
    """Lowest and highest output: of ReLU, of ReLU6, or infinite where no activation follows."""

    def forward(self, x: Tensor) -> Tensor:
        """Clamped output of convolution and batch-norm ``(B, K, h, w)`` for a map ``(B, C, H, W)``."""
        weight, bias = self.folded()
        own_way = not torch.is_autocast_enabled(x.device.type)  # functions of ours know nothing of its casts
        if self.is_pointwise and x.device.type == "cpu" and own_way:
            out: Tensor = _Pointwise.apply(x, weight.flatten(1), bias, self.bounds)
            return out
        if self.is_plain3x3 and own_way and winograd.pays_off(x, self.out_channels):
            return winograd.winograd3x3(x, weight, bias, self.bounds)
        out = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return clamped(out, self.bounds)

    @property
    def is_pointwise(self) -> bool:
        """Whether every output cell reads the input cell at its own place alone."""
        plain = self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1
        return plain and self.kernel_size == (1, 1)

    @property
    def is_plain3x3(self) -> bool:
        """Whether it is dense, 3x3, of stride 1 and keeps the size of its map."""
        dense = self.groups == 1 and self.dilation == (1, 1) and self.stride == (1, 1)
        return dense and self.kernel_size == (3, 3) and self.padding == (1, 1)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight ``(K, C / groups, kh, kw)`` and bias ``(K,)`` that compute convolution and batch-norm at once."""
        if not self.norm:
            return self.weight, self.bias
        (norm,) = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        bias = shift if self.bias is None else shift + self.bias * scale
        return self.weight * scale[:, None, None, None], bias


class _FoldedNorm(FrozenBatchNorm2d):
    """A batch-norm that the convolution before it has folded in: it only keeps its numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """The map ``x`` itself."""
        return x


class _Pointwise(torch.autograd.Function):
    """A 1x1 convolution with its activation, as a product of the cells' rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, bounds: Bounds) -> Tensor:
        """Map ``(B, K, h, w)``, channels last, of ``x`` (B, C, h, w), ``weight`` (K, C) and ``bias`` (K,)."""
        rows = _rows_of(x)
        out = _map_of(product(rows, weight, bias, bounds), x.shape)
        ctx.bounds = bounds
        ctx.save_for_backward(rows, weight, *([] if bounds == NO_BOUNDS else [out]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of map, weight and bias, those that are wanted."""
        (gradient,) = gradients
        rows, weight, *outputs = ctx.saved_tensors
        of_rows = _rows_of(of_clamped(gradient, outputs, ctx.bounds))
        of_x, of_weight, of_bias = product_gradients(of_rows, rows, weight, ctx.needs_input_grad)
        return None if of_x is None else _map_of(of_x, gradient.shape), of_weight, of_bias, None


def _rows_of(x: Tensor) -> Tensor:
    """Rows ``(B * h * w, C)`` of a map ``(B, C, h, w)``: a view where it is laid out channels last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map_of(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The map ``(B, K, h, w)``, channels last, of its ``rows`` (B * h * w, K), in the same memory; ``shape`` (B, ...).

    No view for autograd, so that an activation outside may change it in place.
    """
    batch, _, height, width = shape
    channels = rows.shape[1]
    steps = (height * width * channels, 1, width * channels, channels)
    memory, begin = rows.untyped_storage(), rows.storage_offset()
    return rows.new_empty(0).set_(memory, begin, (batch, channels, height, width), steps)


def fuse_convolutions(module: nn.Module) -> nn.Module:
    """Let every convolution in ``module`` fold the frozen batch-norm that follows it, and in a sequence its activation.

    In place; linear layers become `FastLinear`. The outputs and gradients stay the same to rounding, the state dict to
    the letter.
    """
    children = [(name, child) for name, child in module.named_children() if not isinstance(child, nn.Identity)]
    in_sequence = isinstance(module, nn.Sequential)
    for place, (_, child) in enumerate(children):
        if type(child) is nn.Conv2d:
            following = [*children[place + 1 : place + 3], ("", None), ("", None)]
            _fuse(module, child, following, in_sequence)
        elif type(child) is nn.Linear:
            child.__class__ = FastLinear
        else:
            fuse_convolutions(child)
    return module


def _fuse(parent: nn.Module, conv: nn.Conv2d, following: list[tuple[str, nn.Module | None]], in_sequence: bool) -> None:
    """Make ``conv`` a `FastConv2d` that does the work of those of its two ``following`` siblings that it can."""
    norms: tuple[FrozenBatchNorm2d, ...] = ()
    _, first = following[0]
    if type(first) is FrozenBatchNorm2d:
        norms, following = (first,), following[1:]
        first.__class__ = _FoldedNorm
    name, activation = following[0]
    bounds = _BOUNDS.get(type(activation)) if in_sequence and activation is not None else None
    if bounds is not None:
        setattr(parent, name, nn.Identity())
    conv.__class__ = FastConv2d
    assert isinstance(conv, FastConv2d)
    conv.norm, conv.bounds = norms, bounds or NO_BOUNDS
