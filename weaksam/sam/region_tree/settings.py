"""Define the settings of the region tree; apart from it, as its libraries take a second to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weaksam.config import Settings


class RegionTreeSettings(Settings):
    """How the trees are built, which of their regions count and how they are ranked."""

    ranking: Literal["objectness", "salience"] = Field(
        default="objectness",
        description="what lists the regions. objectness: superpixels merged in ten orders, ranked by a small network "
        "trained on rendered scenes; salience: the trees' own nodes and pairs of them, ranked by their contrast",
    )
    long_side: int = Field(default=256, ge=16, le=2048, description="longer side of the working frame, pixels")
    smoothings: tuple[float, ...] = Field(
        default=(1.0, 0.5, 2.0),
        min_length=1,
        description="a tree for each Gaussian sigma in working pixels; the first answers point prompts, and with "
        "objectness it is the only one",
    )
    superpixel_smoothings: tuple[float, ...] = Field(
        default=(0.5, 1.0), min_length=1, description="of objectness: superpixels are cut at each Gaussian sigma"
    )
    num_superpixels: int = Field(default=300, ge=2, le=5000, description="of objectness: superpixels at each sigma")
    num_paired: int = Field(
        default=40, ge=0, le=200, description="most salient nodes of each tree whose touching pairs are regions too"
    )
    min_area: float = Field(
        default=0.002, gt=0, lt=1, description="smallest node of a tree, as a fraction of the photo"
    )
    min_merged_area: float = Field(
        default=0.0005, gt=0, lt=1, description="of objectness: smallest merged region, as a fraction of the photo"
    )
    max_area: float = Field(default=0.97, gt=0, lt=1, description="largest region, as a fraction of the photo")
    nms_iou: float = Field(default=0.85, gt=0, le=1, description="suppression of the ranked regions, on their boxes")
    size_ratio: float = Field(default=1.5, gt=1, le=10, description="least area ratio between two masks of one prompt")
