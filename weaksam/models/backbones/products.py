"""Multiply matrices on the CPU by oneDNN, which uses vector units that MKL leaves alone on processors not Intel's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam.models.backbones.clamping import NO_BOUNDS, RELU, Bounds, clamped, of_clamped

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None, bounds: Bounds = NO_BOUNDS) -> Tensor:
    """``rows @ weight.T + bias`` of ``rows`` (R, C), ``weight`` (K, C) and ``bias`` (K,), clamped to ``bounds``.

    ``(R, K)``, without a gradient. The same to rounding as ``torch.addmm``, which is what computes it on accelerators,
    of other numbers than float32, and of nothing.
    """
    if not _HAS_ONEDNN or rows.device.type != "cpu" or not rows.numel() or not weight.numel():
        return clamped(F.linear(rows, weight, bias), bounds)
    if rows.dtype != torch.float32 or weight.dtype != torch.float32:
        return clamped(F.linear(rows, weight, bias), bounds)
    activation, limits = _activation(bounds)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, limits, "")
    return out


def weight_gradient(gradient: Tensor, rows: Tensor) -> Tensor:
    """``gradient.T @ rows``, ``(K, C)``, of ``gradient`` (R, K) and ``rows`` (R, C); 0 where R is 0."""
    if gradient.shape[1] <= rows.shape[1]:  # oneDNN lays out the first matrix anew: the smaller one
        return product(gradient.t(), rows.t())
    return product(rows.t(), gradient.t()).t()


def products(tables: Tensor, weights: Tensor) -> Tensor:
    """``tables[i] @ weights[i].T``, ``(n, R, K)``, of ``tables`` (n, R, C) and ``weights`` (n, K, C)."""
    return torch.stack([product(rows, weight) for rows, weight in zip(tables, weights, strict=True)])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, bounds: Bounds = NO_BOUNDS) -> Tensor:
    """`product` with a gradient, of rows ``(..., C)``: ``(..., K)``; under autocast torch's own, which it casts."""
    if torch.is_autocast_enabled(x.device.type):
        return clamped(F.linear(x, weight, bias), bounds)
    out: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias, bounds)
    return out.unflatten(0, x.shape[:-1])


class FastLinear(nn.Linear):
    """A linear layer computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """``(..., K)`` of rows ``(..., C)``."""
        return linear(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    """A matrix product with bias and activation."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, bounds: Bounds) -> Tensor:
        """Rows ``(R, K)``."""
        out = product(rows, weight, bias, bounds)
        ctx.bounds = bounds
        ctx.save_for_backward(rows, weight, *([] if bounds == NO_BOUNDS else [out]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows, weight and bias, those that are wanted."""
        rows, weight, *outputs = ctx.saved_tensors
        gradient = of_clamped(gradients[0], outputs, ctx.bounds)
        return *product_gradients(gradient, rows, weight, ctx.needs_input_grad), None


def product_gradients(
    gradient: Tensor, rows: Tensor, weight: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``rows`` (R, C), ``weight`` (K, C) and bias of a `product` by that of its output ``(R, K)``.

    Those that are ``wanted``, in this order.
    """
    wants_rows, wants_weight, wants_bias = wanted[:3]
    return (
        product(gradient, weight.t()) if wants_rows else None,
        weight_gradient(gradient, rows) if wants_weight else None,
        gradient.sum(0) if wants_bias else None,
    )


def _activation(bounds: Bounds) -> tuple[str, list[float]]:
    """OneDNN's name of the clamping to ``bounds`` and its numbers."""
    if bounds == NO_BOUNDS:
        return "none", []
    return ("relu", []) if bounds == RELU else ("hardtanh", list(bounds))
