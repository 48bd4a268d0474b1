"""Settings of the weakly supervised detector: what it sees, how it is seeded, how it learns and how it is used."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from weaksam.config import Settings
from weaksam.stages.wsod.end_to_end_settings import FullSettings
from weaksam.stages.wsod.seeds.oicr import Compare


class WsodSettings(Settings):
    """The weakly supervised detector; ``mode`` says whether the backbone stays frozen or is trained along."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"max_cache_gib"})
    _added_later: ClassVar[frozenset[str]] = frozenset(
        {
            "mist_share", "mist_iou", "mist_compare", "first_branch_weight", "box_regression", "mode",
            "background_column", "pcl_centres", "full",
        }
    )  # fmt: skip

    mode: Literal["draft", "full"] = Field(
        "draft",
        description="draft: frozen backbone, features kept, minutes on a CPU; full: the published training of all of "
        "it, for a GPU",
    )
    long_side: int = Field(448, ge=64, le=4096, description="longer side of the input, pixels (draft)")
    num_proposals: int = Field(100, ge=1, description="best proposals of a photo that are looked at")
    num_branches: int = Field(3, ge=1, le=10, description="OICR refinement branches")
    reduced: int = Field(256, ge=8, description="principal components of the frozen features that are kept (draft)")
    hidden: int = Field(512, ge=8, description="units of each hidden layer; VGG-16's own two have 4096")
    roi_size: int = Field(5, ge=1, le=14, description="cells a side of a RoI; VGG-16's own layers want 7")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout in the hidden layers")
    seeds: Literal["clues", "scores", "oicr", "oicr_top", "mist", "pcl"] = Field(
        "clues",
        description="what seeds the branches: class maps, or WSDDN, the first; a published rule, all: OICR's released "
        "one, its paper's single top box, MIST, PCL",
    )
    relocate_rounds: int = Field(
        4, ge=0, le=50, description="rounds in which the photos agree on what the tags look like; 0: class maps alone"
    )
    relocate_from: Literal["support", "contrast"] = Field(
        "support", description="what the rounds begin with: contrast suits class maps of a backbone trained on the tags"
    )
    relocate_folds: int = Field(4, ge=2, description="parts of the photos; regions are scored by the other parts")
    relocate_ridge: float = Field(0.1, gt=0, description="shrinkage of that scoring, relative to a feature's square")
    relocate_share: float = Field(0.7, gt=0, le=1, description="least score of a further instance, by the best one's")
    relocate_components: int = Field(512, ge=1, description="principal components of a region that are compared")
    seed_share: float = Field(
        0.5, gt=0, le=1, description="least contrast of a further instance, by the first one's (class maps alone)"
    )
    max_seeds: int = Field(5, ge=1, description="most seeds of a class in a photo (class maps alone)")
    score_share: float = Field(0.9, gt=0, le=1, description="seeds of later branches score this share of the best")
    several: bool = Field(True, description="several seeds per class in later branches, thinned class by class")
    mist_share: float = Field(0.15, gt=0, le=1, description="share of the proposals that MIST takes as candidates")
    mist_iou: float = Field(0.2, gt=0, le=1, description="MIST's seeds of a class overlap less than this")
    mist_compare: Compare = Field("ranked", description="a MIST seed is far from all better candidates, or those kept")
    pcl_centres: Literal["graph", "highest"] = Field("graph", description="PCL's cluster centres, by either rule")
    first_branch_weight: float | None = Field(
        None, gt=0, description="weight of the first branch's losses; none: 3 with MIST, else 1"
    )
    box_regression: bool = Field(False, description="every branch also moves its boxes, class by class")
    background_column: bool = Field(
        False, description="WSDDN's streams have a background column and its loss is a mean, as in MIST"
    )
    foreground_iou: float = Field(0.5, gt=0, le=1, description="least IoU with a seed to take its class")
    num_epochs: int = Field(10, ge=1, description="passes over the photos")
    batch_size: int = Field(2, ge=1, description="photos per step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate (draft: of AdamW)")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up (draft: before a cosine to 0)")
    clip_norm: float | None = Field(5.0, gt=0, description="gradients are cut to this norm; none: not cut")
    nms_iou: float = Field(0.3, gt=0, le=1, description="suppression of detections, per class")
    min_score: float = Field(0.001, ge=0, le=1, description="least score of a detection")
    max_boxes: int = Field(100, ge=1, description="most detections of a photo")
    max_cache_gib: float = Field(2.0, ge=0, description="memory for frozen features; what does not fit is recomputed")
    full: FullSettings = Field(FullSettings(), description="what only the full mode has")
