"""Define the settings of the weakly supervised detector: its input, its seeds, its training and its detections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from weaksam.config import Settings
from weaksam.models.wsod.extent import NO_EXTENT, ExtentSettings
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.seeds.relocation import RelocationSettings
from weaksam.stages.wsod.seeds.settings import SeedSettings
from weaksam.structures.box_voting import NO_VOTING, BoxVotingSettings


class WsodSettings(Settings):
    """The weakly supervised detector; ``mode`` says whether the backbone stays frozen or is trained along."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"max_cache_gib", "max_table_gib"})
    _as_before: ClassVar[Mapping[str, Any]] = {"box_voting": NO_VOTING, "extent": NO_EXTENT, "guard": "off"}
    _renamed: ClassVar[Mapping[str, str]] = {
        "mode=draft": "{section}mode=frozen",
        "mode=full": "{section}mode=end_to_end",
        "full": "{section}end_to_end",
        "seeds=clues": "{section}seeds=relocation (or {section}seeds=class_maps, where relocate_rounds was 0)",
        "relocate_rounds": "{section}seeds.rounds (or {section}seeds=class_maps, where it was 0)",
        "relocate_from": "{section}seeds.start",
        "relocate_folds": "{section}seeds.folds",
        "relocate_ridge": "{section}seeds.ridge",
        "relocate_share": "{section}seeds.share",
        "relocate_components": "{section}seeds.components",
        "seed_share": "{section}seeds.share (with {section}seeds.rule=class_maps)",
        "max_seeds": "{section}seeds.max_seeds (with {section}seeds.rule=class_maps)",
        "score_share": "{section}seeds.score_share (or {section}seeds.share, with {section}seeds.rule=oicr)",
        "several": "{section}seeds.score_nms (true: per_class, false: all_classes)",
        "mist_share": "{section}seeds.share (with {section}seeds.rule=mist)",
        "mist_iou": "{section}seeds.max_iou (with {section}seeds.rule=mist)",
        "mist_compare": "{section}seeds.compare (with {section}seeds.rule=mist)",
        "pcl_centres": "{section}seeds.centres (with {section}seeds.rule=pcl)",
    }

    mode: Literal["frozen", "end_to_end"] = Field(
        "frozen",
        description="frozen: only a head is trained, on features that are kept, minutes on a CPU; end_to_end: the "
        "published training of the whole network, for a GPU",
    )
    long_side: int = Field(448, ge=64, le=4096, description="longer side of the input, pixels (frozen)")
    num_proposals: int = Field(100, ge=1, description="best proposals of a photo that are looked at")
    num_branches: int = Field(3, ge=1, le=10, description="OICR refinement branches")
    reduced: int = Field(256, ge=8, description="principal components of the frozen features that are kept (frozen)")
    hidden: int = Field(512, ge=8, description="units of each hidden layer; VGG-16's own two have 4096")
    roi_size: int = Field(5, ge=1, le=14, description="cells a side of a RoI; VGG-16's own layers want 7")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout in the hidden layers")
    seeds: SeedSettings = Field(
        RelocationSettings(),
        discriminator="rule",
        description="what seeds the refinement branches: a rule (relocation, class_maps, scores, oicr, oicr_top, mist "
        "or pcl) and its settings",
    )
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
    lr: float = Field(1e-3, gt=0, description="peak learning rate (frozen: of AdamW)")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up (frozen: before a cosine to 0)")
    clip_norm: float | None = Field(5.0, gt=0, description="gradients are cut to this norm; none: not cut")
    nms_iou: float = Field(0.3, gt=0, le=1, description="suppression of detections, per class")
    min_score: float = Field(0.001, ge=0, le=1, description="least score of a detection")
    max_boxes: int = Field(100, ge=1, description="most detections of a photo")
    extent: ExtentSettings = Field(
        ExtentSettings(),
        description="moves detections towards the proposal around them that differs most from its surroundings; share "
        "0: not at all (frozen)",
    )
    box_voting: BoxVotingSettings = Field(
        NO_VOTING,
        description="moves detections towards the overlapping proposals, weighted by their scores; share 0: not at all",
    )
    guard: Literal["off", "surroundings"] = Field(
        "off",
        description="surroundings: on the training photos a class whose best boxes stand out from their surroundings "
        "less than the largest proposals do gets these instead (frozen)",
    )
    max_cache_gib: float = Field(2.0, ge=0, description="memory for frozen features; what does not fit is recomputed")
    max_table_gib: float = Field(
        1.0,
        ge=0,
        description="memory for the proposals' IoU tables, where the losses are computed; what does not fit is "
        "recomputed",
    )
    end_to_end: EndToEndSettings = Field(EndToEndSettings(), description="what only the mode end_to_end has")
