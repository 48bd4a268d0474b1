"""Pool RoIs from feature maps by RoIPool or RoIAlign, on request with a gradient that is the same in every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor
from torch.autograd.function import once_differentiable

from weaksam.models.full_precision import full_precision
from weaksam.models.roi.align import numbered, roi_align, sampled_cells

Method = Literal["align", "pool"]

_MANTISSA_BITS = 52
_PRODUCTS_AT_ONCE = {"cpu": 2**20, "other": 2**25}


def pool_rois(
    features: Tensor,
    boxes: Sequence[Tensor],
    *,
    size: int,
    stride: float,
    method: Method = "pool",
    deterministic: bool = False,
    sampling_ratio: int = 2,
) -> Tensor:
    """Features ``(sum R_i, C, size, size)`` of the RoIs of B photos, one photo after the other.

    ``features`` (B, C, h, w) with cells of ``stride`` input pixels, ``boxes`` B times (R_i, 4) xyxy in input pixels,
    half-open. ``align`` is RoIAlign (He et al., ICCV 2017; half-pixel offset, ``sampling_ratio`` samples a side of
    each cell), ``pool`` RoIPool (Girshick, ICCV 2015), both as torchvision computes them; formats below float32 are
    computed in float32. No RoI: ``(0, C, size, size)``.

    With ``deterministic`` the gradient is the same in every run and for every order of the RoIs. On GPUs torchvision
    adds it up in whatever order threads come (torchvision issue 7457, detectron2 issue 4723). It has a repeatable
    RoIAlign only for compiled code, and no RoIPool.

    Raises:
        ValueError: there is not one tensor of boxes per photo, or ``size`` or ``sampling_ratio`` is below 1.
    """
    if len(boxes) != len(features):
        raise ValueError(f"{len(features)} feature maps need as many tensors of boxes, but there are {len(boxes)}")
    if size < 1 or sampling_ratio < 1:
        raise ValueError(f"size and sampling_ratio must be at least 1, but are {size} and {sampling_ratio}")
    maps = full_precision(features)
    rois = numbered([of_photo.to(maps) for of_photo in boxes]) if boxes else maps.new_zeros(0, 5)
    if method == "align" and deterministic:
        return _RepeatableAlign.apply(maps, rois, 1 / stride, size, sampling_ratio).to(features.dtype)
    if method == "align":
        return roi_align(maps, rois, scale=1 / stride, size=size, sampling_ratio=sampling_ratio).to(features.dtype)
    pool = _RepeatablePool.apply if deterministic else torch.ops.torchvision.roi_pool
    return pool(maps, rois, 1 / stride, size, size)[0].to(features.dtype)


class _RepeatablePool(torch.autograd.Function):
    """RoIPool whose gradient goes to the remembered maxima, added exactly."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, rois: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
        pooled, argmax = torch.ops.torchvision.roi_pool(maps, rois, *options)
        ctx.save_for_backward(rois, argmax)
        ctx.shape = maps.shape
        ctx.mark_non_differentiable(argmax)
        return pooled, argmax

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        rois, argmax = ctx.saved_tensors
        photos, channels, height, width = ctx.shape
        unit = _unit(grad, num=argmax.numel() // channels)
        total = torch.zeros(photos * channels * height * width, dtype=torch.float64, device=grad.device)
        num = _rois_at_once(grad, channels * grad.shape[-1] ** 2)
        for some_rois, some_argmax, some_grad in zip(rois.split(num), argmax.split(num), grad.split(num), strict=True):
            plane = some_rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)  # (r, C)
            index = plane[..., None, None] * (height * width) + some_argmax.clamp(min=0)
            steps = (some_grad.double() / unit).round_().masked_fill_(some_argmax < 0, 0.0)  # no maximum: an empty cell
            total.scatter_add_(0, index.flatten(), steps.flatten())
        return (total * unit).to(grad.dtype).view(ctx.shape), None, None, None, None


class _RepeatableAlign(torch.autograd.Function):
    """RoIAlign whose gradient is spread over the sampled cells and added exactly."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, rois: Tensor, scale: float, size: int, sampling_ratio: int) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.options = maps.shape, (scale, size, sampling_ratio)
        return roi_align(maps, rois, scale=scale, size=size, sampling_ratio=sampling_ratio)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        photos, channels, height, width = ctx.shape
        scale, size, sampling_ratio = ctx.options
        unit = _unit(grad, num=len(rois) * size**2)
        total = torch.zeros(channels, photos * height * width, dtype=torch.float64, device=grad.device)
        num = _rois_at_once(grad, channels * (2 * sampling_ratio * size) ** 2)
        for some_rois, some_grad in zip(rois.split(num), grad.split(num), strict=True):
            level = torch.zeros(len(some_rois), dtype=torch.int64, device=rois.device)
            cell, weight = sampled_cells(some_rois, level, [ctx.shape], [scale], size, sampling_ratio, aligned=True)
            steps = (some_grad.double() / unit).transpose(0, 1)[:, :, :, None, :, None] * weight  # (C, r, s, 2n, s, 2n)
            total.scatter_add_(1, cell.flatten().expand(channels, -1), steps.round_().flatten(1))
        gradient = (total * unit).to(grad.dtype).view(channels, photos, height, width).transpose(0, 1)
        return gradient.contiguous(), None, None, None, None


def _unit(grad: Tensor, num: int) -> Tensor:
    """A power of two: whole multiples of it, ``num`` of them up to the largest of ``grad``, add exactly in float64.

    A sum without rounding does not depend on its order. Nothing waits for the device; NaN and infinity stay in it.
    """
    if grad.numel() == 0:
        return torch.ones((), dtype=torch.float64, device=grad.device)
    largest = grad.double().nan_to_num(0.0, 0.0, 0.0).abs().amax()
    exponent = torch.frexp(largest).exponent  # largest < 2 ** exponent
    return torch.ldexp(torch.ones_like(largest), exponent - (_MANTISSA_BITS - num.bit_length()))


def _rois_at_once(grad: Tensor, products_per_roi: int) -> int:
    """How many RoIs to add at a time: few on the CPU, whose caches are small; more where launching costs."""
    return max(1, _PRODUCTS_AT_ONCE["cpu" if grad.device.type == "cpu" else "other"] // products_per_roi)
