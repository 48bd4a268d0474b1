"""RoI drop: leave foreground regions with high losses out of a detector's training losses (WeakSAM, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from weaksam.config import Settings
from weaksam.models.ranks import ranks


class RoiDropSettings(Settings):
    """Which regions leave the losses of the heads, and from which step on.

    A pseudo box that is wrong gives its regions high losses, more so once the detector has learnt from the right ones.
    """

    gate: Literal["off", "independent", "joint"] = "off"
    """``independent``: a region leaves each term whose own loss is above that term's threshold (the paper's figure);
    ``joint``: it leaves every term where its class loss and its box loss both are (the released code)."""
    threshold: Literal["loss", "normalised", "share"] = "loss"
    """What the limits below are: values of the loss; values after the foreground's losses of a step are moved to 0 to 1
    (least to greatest); or the share of a step's foreground regions, highest losses first, that is dropped."""
    class_limit: float = Field(4.0, ge=0)
    """Limit of the class term, a cross-entropy."""
    box_limit: float = Field(4.0, ge=0)
    """Limit of the box term, a smooth L1 distance summed over the four encoded offsets."""
    mask_limit: float | None = Field(None, ge=0)
    """Limit of the mask term, a mean binary cross-entropy; none: the independent gate leaves masks alone."""
    drop_background: bool = False
    """Let the independent gate drop the class loss of background regions too, as the paper's equation reads."""
    start_step: int | None = Field(None, ge=0)
    """First step (0-based) at which regions are dropped, instead of ``start_share``."""
    start_share: float = Field(2 / 9, ge=0, le=1)
    """The same as a share of the training; the published schedule of VOC07 starts at 2,000 of 9,000 steps."""

    @model_validator(mode="after")
    def _shares_are_at_most_1(self) -> RoiDropSettings:
        """Losses moved to 0 to 1 and shares have limits of at most 1."""
        limits = {"class_limit": self.class_limit, "box_limit": self.box_limit, "mask_limit": self.mask_limit or 0.0}
        above = [name for name, limit in limits.items() if limit > 1]
        if self.gate != "off" and self.threshold != "loss" and above:
            raise ValueError(
                f"threshold={self.threshold} wants limits from 0 to 1, found {', '.join(above)} above 1: set them, or "
                "take threshold=loss"
            )
        return self

    def active(self, step: int, num_steps: int) -> bool:
        """Whether regions are dropped in step ``step`` (0-based) of ``num_steps``."""
        if self.gate == "off":
            return False
        start = self.start_step if self.start_step is not None else round(self.start_share * num_steps)
        return step >= start

    def limits(self) -> dict[str, float]:
        """The limit of each term that has one."""
        limits = {"class": self.class_limit, "box": self.box_limit}
        return limits if self.mask_limit is None else limits | {"mask": self.mask_limit}


def dropped_regions(losses: Mapping[str, Tensor], foreground: Tensor, settings: RoiDropSettings) -> dict[str, Tensor]:
    """Which regions leave each term: bool ``(R,)`` by the names in ``losses``.

    ``losses``: the terms ``class``, ``box`` and, of a detector with masks, ``mask``, each ``(R,)``; box and mask losses
    of background regions are 0. ``foreground`` bool ``(R,)``. No foreground region drops nothing. Background regions
    are never dropped, but for ``drop_background``. Nothing here reads a value back from the device.
    """
    may_drop = dict.fromkeys(losses, foreground)
    if settings.drop_background and settings.gate == "independent":
        may_drop["class"] = torch.ones_like(foreground)
    dropped = dict.fromkeys(losses, torch.zeros_like(foreground))
    for term, limit in settings.limits().items():
        if term in losses:
            dropped[term] = _above(losses[term].detach(), may_drop[term], limit, settings.threshold)
    return dict.fromkeys(losses, dropped["class"] & dropped["box"]) if settings.gate == "joint" else dropped


def _above(loss: Tensor, counted: Tensor, limit: float, threshold: str) -> Tensor:
    """Bool ``(R,)``: the ``counted`` (R,) regions whose ``loss`` (R,) is above ``limit`` as ``threshold`` means it.

    Among those of all processes that compute the step.
    """
    if threshold == "loss":
        return counted & (loss > limit)
    of_all, begin = ranks().concatenated(loss)
    counted_of_all, _ = ranks().concatenated(counted)
    return _above_others(of_all, counted_of_all, limit, threshold)[begin : begin + len(loss)]


def _above_others(loss: Tensor, counted: Tensor, limit: float, threshold: str) -> Tensor:
    """`_above` of one process, for the thresholds ``normalised`` and ``share``; R may be 0."""
    if len(loss) == 0:
        return counted
    if threshold == "normalised":
        least = loss.masked_fill(~counted, torch.inf).amin()
        greatest = loss.masked_fill(~counted, -torch.inf).amax()
        return counted & (loss - least > limit * (greatest - least))  # equal losses are all 0, and stay
    # The rank of each counted region, highest loss first; equal losses in their order
    order = loss.masked_fill(~counted, -torch.inf).argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return counted & (rank < (limit * counted.sum()).floor())


def mean_of_kept(loss: Tensor, dropped: Tensor, divisor: int | Tensor) -> Tensor:
    """A term's loss, scalar: the sum of ``loss`` (R,) over regions that are not ``dropped`` (R,), by ``divisor``.

    The divisor is what it is without dropping (all sampled regions for class and box, the foreground for masks), so
    that dropping only ever lowers a loss. A divisor of 0 gives 0; one on the device is not read back.
    """
    at_least_1 = divisor.clamp(min=1) if isinstance(divisor, Tensor) else max(divisor, 1)
    return loss.masked_fill(dropped, 0.0).sum() / at_least_1
