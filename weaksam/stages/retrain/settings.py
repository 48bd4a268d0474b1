"""Define the settings of the detector that is retrained on pseudo ground truth, one class for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from weaksam.config import Settings
from weaksam.engine.detectors.copy_paste import NO_COPY_PASTE, CopyPasteSettings
from weaksam.engine.detectors.dino import TrainableDinoSettings
from weaksam.engine.detectors.mixing import MixingSettings
from weaksam.engine.detectors.taught import TaughtSettings
from weaksam.stages.retrain.start import StartSettings
from weaksam.structures.box_voting import NO_VOTING, BoxVotingSettings

NETWORK_ALONE: Mapping[str, Any] = {
    "choice": "retrained",
    "fusion_iou": 0.6,
    "box_voting": NO_VOTING,
    "rounds": 0,
    "round_share": 0.5,
}
"""The values of `ChoiceSettings` at which the stage trains one network and hands on what that one detects."""


class ChoiceSettings(Settings):
    """Whose detections the stage hands on, and whether they teach the network once more."""

    _as_before: ClassVar[Mapping[str, Any]] = NETWORK_ALONE

    choice: Literal["auto", "weak", "retrained", "merged"] = Field(
        "auto",
        description="whose detections are handed on: the weak detector's, the retrained network's or both merged by "
        "weighted boxes fusion; auto: by a signal without truth (docs/retrain.md)",
    )
    fusion_iou: float = Field(0.6, gt=0, lt=1, description="IoU above which merged boxes of a class are one object")
    box_voting: BoxVotingSettings = Field(
        BoxVotingSettings(), description="moves the chosen detections towards the proposals that overlap them"
    )
    rounds: int = Field(
        0, ge=0, le=10, description="further trainings on the pseudo ground truth that the chosen detections give"
    )
    round_share: float = Field(
        0.5, gt=0, le=1, description="length of each of them, as a share of the first training's epochs or steps"
    )


class FrameSettings(ChoiceSettings):
    """What trains the network: this package, or another frame."""

    _as_before: ClassVar[Mapping[str, Any]] = {"engine": "weaksam", "engine_options": ()}
    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"engine_python"})

    engine: Literal["weaksam", "mmdet", "detectron2"] = Field(
        "weaksam", description="what trains the network: weaksam, or another frame by its exported configuration"
    )
    engine_options: tuple[str, ...] = Field(
        (), description="key=value options of that frame, such as train_cfg.max_iters=500 (mmdet)"
    )
    engine_python: Path | None = Field(None, description="Python that has the frame; by default the one that runs")

    @model_validator(mode="after")
    def _frame_can_do_it(self) -> Self:
        """Raise ``ValueError`` for what another frame cannot do, and for its options without it."""
        if self.engine == "weaksam":
            if self.engine_options or self.engine_python is not None:
                raise ValueError("engine_options and engine_python are of engine=mmdet or detectron2: set engine too")
            return self
        if self.rounds:
            raise ValueError(f"rounds={self.rounds} needs engine=weaksam, found {self.engine}: take rounds=0")
        if wrong := [option for option in self.engine_options if "=" not in option]:
            raise ValueError(f"engine_options want key=value, found {wrong[0]!r}: write it so")
        return self


class RetrainSettings(FrameSettings, StartSettings, MixingSettings, TaughtSettings):
    """Faster R-CNN on pseudo ground truth, its training and its use."""

    # The kind is told by the other fields, so that what was trained before there were two is found again
    _not_fingerprinted: ClassVar[frozenset[str]] = (
        TaughtSettings._not_fingerprinted | FrameSettings._not_fingerprinted | {"detector"}
    )

    _as_before: ClassVar[Mapping[str, Any]] = {"given_proposals": 0}

    detector: Literal["faster_rcnn"] = "faster_rcnn"
    given_proposals: int = Field(0, ge=0)
    """So many of a photo's best proposals of the run go to the box head beside those of the proposal network, in
    training and when detecting (as in Fast R-CNN); 0: none."""


class DinoRetrainSettings(FrameSettings, StartSettings, MixingSettings, TrainableDinoSettings):
    """DINO on pseudo ground truth, its training and its use."""

    _not_fingerprinted: ClassVar[frozenset[str]] = (
        TrainableDinoSettings._not_fingerprinted | FrameSettings._not_fingerprinted
    )

    detector: Literal["dino"] = "dino"
    copy_paste: CopyPasteSettings = NO_COPY_PASTE
    """Objects cut out by their masks, pasted onto photos of other classes; nothing by default: not measured with it."""


AnyRetrainSettings = RetrainSettings | DinoRetrainSettings


def network_settings(settings: AnyRetrainSettings) -> AnyRetrainSettings:
    """``settings`` without what chooses between detections: what the network's weights and detections depend on."""
    return settings.model_copy(update=dict(NETWORK_ALONE))
