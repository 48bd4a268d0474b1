"""Query drop: leave matched queries with high losses out of a detector's training losses (WeakSAM, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor

from weaksam.models.roi.roi_drop import RoiDropSettings, dropped_regions


class QueryDropSettings(RoiDropSettings):
    """Which queries leave the losses of matching queries and of the encoder, and from which step on.

    Denoising queries, whose boxes are given, never leave. With ``gate=class`` alone the tenth of the matched queries
    that has the highest class loss leaves.
    """

    gate: Literal["off", "class", "independent", "joint"] = "off"  # type: ignore[assignment]
    """``class``: a query leaves every term where its class loss is above ``class_limit`` (what the released code was
    meant to do); ``independent``: it leaves each term whose own loss is above that term's limit; ``joint``: every term
    where its class loss and its box loss both are."""
    threshold: Literal["loss", "normalised", "share"] = "share"
    """What the limits below are: values of the loss; values after the matched queries' losses of a layer are moved to 0
    to 1; or the share of a layer's matched queries, highest losses first, that is dropped."""
    class_limit: float = Field(0.1, ge=0)
    """Limit of the class term, a focal loss summed over the classes."""
    box_limit: float = Field(0.1, ge=0)
    """Limit of the box term: weighted L1 distance and GIoU loss, 5 and 2."""


def dropped_queries(losses: Mapping[str, Tensor], matched: Tensor, settings: QueryDropSettings) -> dict[str, Tensor]:
    """Which queries leave each term: bool ``(R,)`` by the names in ``losses``, ``class`` and ``box``, each ``(R,)``.

    ``matched`` bool ``(R,)``: queries that have a true box; the box loss of others is 0.
    """
    if settings.gate != "class":
        return dropped_regions(losses, matched, settings)
    rows = dropped_regions({"class": losses["class"]}, matched, settings)["class"]
    return dict.fromkeys(losses, rows)
