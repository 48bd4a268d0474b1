"""Multiply matrices on the CPU by oneDNN, which uses vector units that MKL leaves alone on processors not Intel's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam.models.backbones.clamping import NO_BOUNDS, RELU, Bounds, clamped, of_clamped

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_NUM_ROWS = (4096, 1024, 256, 64)
"""Numbers of rows that are multiplied at once. oneDNN compiles a program of up to half a megabyte for each, in more
time than a product takes, so that the sizes of photos must not decide about them."""


def product(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    bounds: Bounds = NO_BOUNDS,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """``rows @ weight.T + bias`` of ``rows`` (R, C), ``weight`` (K, C) and ``bias`` (K,), clamped to ``bounds``.

    ``(R, K)``, in ``out`` where that is given, without a gradient. The same to rounding as ``torch.addmm``, which
    computes it on accelerators, of other numbers than float32, and of the last rows.
    """
    if not _suits(rows, weight):
        plain = clamped(F.linear(rows, weight, bias), bounds)
        return plain if out is None else out.copy_(plain)
    activation, limits = _activation(bounds)
    out = rows.new_empty(len(rows), len(weight)) if out is None else out
    begin = 0
    for num in _NUM_ROWS:
        while begin + num <= len(rows):
            part = slice(begin, begin + num)
            out[part] = torch.ops.mkldnn._linear_pointwise(rows[part], weight, bias, activation, limits, "")
            begin += num
    if begin < len(rows):
        rest, out_rest = rows[begin:], out[begin:]
        if bias is None:
            torch.mm(rest, weight.t(), out=out_rest)
        else:
            torch.addmm(bias, rest, weight.t(), out=out_rest)
        clamped(out_rest, bounds)
    return out


def weight_gradient(gradient: Tensor, rows: Tensor) -> Tensor:
    """``gradient.T @ rows``, ``(K, C)``, of ``gradient`` (R, K) and ``rows`` (R, C); 0 where R is 0."""
    if not _suits(gradient, rows):
        return gradient.t() @ rows
    if gradient.shape[1] > rows.shape[1]:  # oneDNN lays out the first matrix anew: the smaller one
        return weight_gradient(rows, gradient).t()
    out = gradient.new_zeros(gradient.shape[1], rows.shape[1])
    begin = 0
    for num in _NUM_ROWS:
        while begin + num <= len(rows):
            part = slice(begin, begin + num)
            out += torch.ops.mkldnn._linear_pointwise(gradient[part].t(), rows[part].t(), None, "none", [], "")
            begin += num
    return out.addmm_(gradient[begin:].t(), rows[begin:]) if begin < len(rows) else out


def _suits(*matrices: Tensor) -> bool:
    """Whether oneDNN multiplies these: on the CPU, float32, not empty."""
    return _HAS_ONEDNN and all(
        matrix.device.type == "cpu" and matrix.dtype == torch.float32 and matrix.numel() for matrix in matrices
    )


def products(tables: Tensor, weights: Tensor) -> Tensor:
    """``tables[i] @ weights[i].T``, ``(n, R, K)``, of ``tables`` (n, R, C) and ``weights`` (n, K, C)."""
    out = tables.new_empty(*tables.shape[:2], weights.shape[1])
    for rows, weight, of_table in zip(tables, weights, out, strict=True):
        product(rows, weight, out=of_table)
    return out


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
