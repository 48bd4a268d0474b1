"""Define the settings of pseudo ground truth: one class per rule, chosen by ``rule``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from weaksam.config import Settings


class RuleSettings(Settings):
    """What every rule shares."""

    _renamed: ClassVar[Mapping[str, str]] = {"method": "{section}rule"}
    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"review"})  # what the files say is an input of the stage

    review: tuple[Path, ...] = Field(
        default=(),
        description="decisions of reviews of the run's report, in the order in which they were made; weaksam review "
        "apply sets it",
    )


_NO_THRESHOLD: Mapping[str, Any] = {"class_threshold": "off", "threshold_quantile": 0.95, "threshold_beta": 0.5}


class ChoosingSettings(RuleSettings):
    """What the rules share that choose among detections."""

    _as_before: ClassVar[Mapping[str, Any]] = {"ignore_from": None, **_NO_THRESHOLD}

    ignore_from: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="detections that are not chosen are ignored in training where at least this share of those of "
        "their score is there because of the tag; none: they are background",
    )
    class_threshold: Literal["off", "quantile", "f_beta"] = Field(
        default="off",
        description="least score of a believed box, by class and from tags alone: what most photos without the tag "
        "stay below, or where an F-beta of precision and recall as the tags estimate them is greatest; chosen boxes "
        "below it are ignored",
    )
    threshold_quantile: float = Field(
        default=0.95, ge=0, le=1, description="share of the photos without the tag whose best score quantile is above"
    )
    threshold_beta: float = Field(
        default=0.5, gt=0, le=10, description="beta of f_beta; below 1 precision counts more than recall"
    )

    @property
    def ignores(self) -> bool:
        """Whether there are regions to ignore beside the believed boxes."""
        return self.ignore_from is not None or self.class_threshold != "off"


class ThresholdSettings(ChoosingSettings):
    """The two thresholds of WeakSAM's Algorithm 2; each rule says how it compares with them."""

    min_score_norm: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="lowest score kept, as a share of the way from a class's worst to its best (tau_s)",
    )
    containment: float = Field(
        default=0.85, gt=0, le=1, description="share of a box inside a larger one at which it is dropped (tau_o)"
    )


class AdaptiveSettings(ThresholdSettings):
    """The rule ``adaptive``: several boxes per tag, every case defined; a tag with a detection keeps a box."""

    rule: Literal["adaptive"] = "adaptive"
    larger_share: float = Field(
        default=1,
        ge=0,
        le=1,
        description="least score of a larger box, as a share of the better-scored one in it, that replaces that one; "
        "1: the better score always wins, 0: the larger box does",
    )


class AdaptivePaperSettings(ThresholdSettings):
    """The rule ``adaptive_paper``: Algorithm 2 of WeakSAM as it is printed, in which two like boxes delete each other.

    A box is kept above ``min_score_norm``, not at it.
    """

    rule: Literal["adaptive_paper"] = "adaptive_paper"


class AdaptiveReleasedSettings(ThresholdSettings):
    """The rule ``adaptive_released``: what WeakSAM's released code does; its result depends on the order of detections.

    ``min_score_norm`` is compared with score / (max - min + 1e-8), from which the least score is not subtracted.
    """

    rule: Literal["adaptive_released"] = "adaptive_released"


class Top1Settings(ChoosingSettings):
    """The rule ``top1``: the best-scored box of every tag."""

    rule: Literal["top1"] = "top1"


class TopKSettings(ChoosingSettings):
    """The rule ``topk``: the best-scored boxes of every tag."""

    rule: Literal["topk"] = "topk"
    k: int = Field(default=3, ge=1, description="most boxes of a tag in a photo")


class GivenPseudoGtSettings(RuleSettings):
    """The rule ``given``: the boxes of a file, made by another tool or another run."""

    _not_fingerprinted: ClassVar[frozenset[str]] = RuleSettings._not_fingerprinted | {"path"}

    rule: Literal["given"] = "given"
    path: Path = Field(description="boxes of the training photos: COCO JSON, VOC XML folder or YOLO labels")
    untagged: Literal["refuse", "drop"] = Field(
        default="refuse", description="boxes of classes that are no tag of their photo: an error, or left out"
    )


PseudoGtSettings = (
    AdaptiveSettings
    | AdaptivePaperSettings
    | AdaptiveReleasedSettings
    | Top1Settings
    | TopKSettings
    | GivenPseudoGtSettings
)
