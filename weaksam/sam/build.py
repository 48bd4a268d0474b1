"""Turn segmenter settings into a segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from weaksam.config import Settings, UserError
from weaksam.sam.protocol import Segmenter
from weaksam.sam.region_tree import RegionTreeSegmenter, RegionTreeSettings

OFFLINE_DEFAULT: Literal["tree", "nano"] = "tree"  # measured: benchmarks/proposal_recall.py


class SegmenterSettings(Settings):
    """Which frozen segmenter answers the prompts."""

    family: Literal["auto", "nano", "tree", "segment_anything"] = Field(
        default="auto", description="auto: segment_anything where weights are given, else the better offline family"
    )
    weights: Path | None = Field(default=None, description="a SAM .pth file, or other weights of the nano family")
    tree: RegionTreeSettings = Field(
        default=RegionTreeSettings(), description="settings of the region tree, if it is used"
    )


def build_segmenter(settings: SegmenterSettings, device: torch.device) -> Segmenter:
    """The segmenter of ``settings``, its weights on ``device`` (the region tree has none and runs on the CPU).

    Raises:
        UserError: the family needs weights and has none, needs none and has some, or they cannot be read.
    """
    family = settings.family
    if family == "auto":
        family = OFFLINE_DEFAULT if settings.weights is None else "segment_anything"
    if family == "tree":
        if settings.weights is not None:
            raise UserError(
                f"The region tree takes no weights, but segmenter.weights is {settings.weights}: remove it, or set "
                "segmenter.family=segment_anything."
            )
        return RegionTreeSegmenter(settings.tree)
    if family == "nano":
        from weaksam.sam.nano import SamNano

        return SamNano.load(settings.weights, device)
    if settings.weights is None:
        raise UserError(
            "segmenter.family=segment_anything needs a checkpoint, but segmenter.weights is empty: set it to an "
            "official sam_vit_b, sam_vit_l or sam_vit_h .pth file."
        )
    from weaksam.sam.segment_anything import SegmentAnything

    return SegmentAnything.load(settings.weights, device)
