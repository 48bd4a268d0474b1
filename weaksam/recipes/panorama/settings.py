"""Define the settings of the panorama recipe (GoodSAM-style)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from weaksam.config import Settings
from weaksam.models.semantic.network import STRIDE, SegformerVariant
from weaksam.recipes.panorama.fusion import FusionSettings
from weaksam.recipes.panorama.layouts import LayoutName
from weaksam.sam.build import SegmenterSettings
from weaksam.structures.panorama_windows import PanoramaWindows
from weaksam.structures.sphere import FULL_DEGREES


class SemanticSplit(Settings):
    """Where photos and their class maps lie; panoramas to learn from need no class maps."""

    images: Path | None = Field(None, description="folder of photos, searched with its sub-folders")
    labels: Path | None = Field(None, description="folder of class maps, laid out as the photos are; 255: no class")
    folders: tuple[str, ...] = Field((), description="sub-folders of images to use, such as [area_5a,area_5b]; all")


class PanoramaData(Settings):
    """Panoramas, pinhole photos with class maps, and what they show."""

    train: SemanticSplit = Field(SemanticSplit(), description="panoramas to learn from, without labels")
    test: SemanticSplit | None = Field(None, description="panoramas with class maps to measure on; none: no figures")
    photos: SemanticSplit | None = Field(None, description="pinhole photos with class maps that teach the assistant")
    layout: LayoutName = Field("plain", description="how class maps are named and coded: plain, or a data set's way")
    label_names: Path | None = Field(None, description="semantic_labels.json of Stanford2D3D")
    classes: tuple[str, ...] | None = Field(None, description="class names in order; by default those of the layout")
    vertical_degrees: float = Field(
        FULL_DEGREES, gt=10, le=180, description="what a panorama's height covers; 180 is 2:1, DensePASS has 70.3"
    )
    height: int | None = Field(None, ge=32, description="rows to which panoramas are resized; none: as they are")


class WindowSettings(Settings):
    """Windows of a panorama in which the assistant and the segmenter look; GoodSAM's 8 windows by default."""

    size: tuple[int, int] = Field((400, 512), description="rows and columns of a window")
    stride: tuple[int, int] = Field((400, 256), description="pixels from a window to the next, down and across")
    wrap_y: bool = Field(False, description="windows go on over the lower edge too (GoodSAM++'s second axis)")

    @model_validator(mode="after")
    def _on_the_grid(self) -> Self:
        sides = (*self.size, *self.stride)
        if any(side < STRIDE or side % STRIDE for side in sides):
            raise ValueError(
                f"windows.size and windows.stride want multiples of {STRIDE} pixels, found {list(self.size)} and "
                f"{list(self.stride)}: round them, since logits stand for {STRIDE} pixels"
            )
        if any(step > side for step, side in zip(self.stride, self.size, strict=True)):
            raise ValueError(
                f"windows.stride wants at most the window's size, found {list(self.stride)} and {list(self.size)}: "
                "lower the stride"
            )
        return self

    @property
    def windows(self) -> PanoramaWindows:
        """The windows; they go on at the left edge."""
        return PanoramaWindows(self.size, self.stride, wrap_y=self.wrap_y)


class TeachingSettings(Settings):
    """How long and how fast a network is trained."""

    steps: int = Field(2000, ge=0, description="optimizer steps; 0 leaves the network as it is")
    batch_size: int = Field(4, ge=1, description="photos of a step")
    lr: float = Field(6e-5, gt=0, description="AdamW's learning rate; SegFormer's by default, higher from scratch")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay")
    warmup_steps: int = Field(100, ge=0, description="steps in which the learning rate rises, then half a cosine")


class AssistantSettings(TeachingSettings):
    """The teacher's assistant: a semantic segmenter for pinhole photos."""

    weights: Path | None = Field(
        None, description="folder or hub id of a semantic segmenter of transformers; none: trained on data.photos"
    )
    variant: SegformerVariant = Field("b5", description="the SegFormer that is trained where there are no weights")


class RectificationSettings(TeachingSettings):
    """How the assistant is adapted to windows of panoramas without labels (DAR)."""

    steps: int = Field(500, ge=0, description="optimizer steps; 0 leaves the assistant as it is")
    batch_size: int = Field(1, ge=1, description="panoramas of a step")
    windows: int = Field(4, ge=2, description="neighbouring windows of each panorama in a step")
    temperature: float = Field(1.0, gt=0, description="of both softmaxes of the consistency")
    boundary_weight: float = Field(0.5, ge=0, description="of the loss on boundaries of masks")
    photos_weight: float = Field(
        1.0, ge=0, description="of the cross-entropy on data.photos, which keeps what was learnt (ours; 0: without)"
    )


class StudentSettings(TeachingSettings):
    """The student, and what it learns (MKA)."""

    variant: SegformerVariant = Field("b0", description="the student's SegFormer; b0 has 3.7 M parameters")
    weights: Path | None = Field(None, description="folder or hub id of a SegFormer to begin with; none: from scratch")
    start: Literal["weights", "assistant"] = Field(
        "weights",
        description="first weights: those of student.weights, drawn ones without; or the assistant's before its "
        "rectification, where both are of one variant (ours)",
    )
    windows: int = Field(2, ge=0, description="windows of each panorama in a step, beside the whole panorama")
    targets: Literal["ensemble", "assistant", "true"] = Field(
        "ensemble", description="labels: the pseudo maps; the assistant's own; or data.train.labels, the upper bound"
    )
    logit_weight: float = Field(1.0, ge=0, description="of the logits' divergence; 0 leaves it out")
    feature_weight: float = Field(0.1, ge=0, description="of the features' distance on windows; 0 leaves it out")
    max_cache_gib: float = Field(1.0, ge=0, description="room for the assistant's logits, which stay in two phases")

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"max_cache_gib"})
    _as_before: ClassVar[Mapping[str, Any]] = {"start": "weights"}

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.start == "assistant" and self.weights is not None:
            raise ValueError(
                "student.start=assistant begins with the assistant's weights, found student.weights too: leave one out"
            )
        return self


class PanoramaSettings(Settings):
    """A segmenter for panoramas from unlabelled panoramas, a frozen promptable segmenter and an assistant."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"data", "out", "device", "threads"})

    data: PanoramaData = Field(PanoramaData(), description="panoramas and pinhole photos")
    out: Path = Field(Path("work_dirs/panorama"), description="folder for everything that is made")
    seed: int = Field(0, ge=0, description="the one seed")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none leaves its own choice")
    windows: WindowSettings = Field(WindowSettings(), description="windows of a panorama")
    segmenter: SegmenterSettings = Field(SegmenterSettings(), description="the frozen segmenter whose masks vote")
    max_masks: int = Field(100, ge=1, description="masks of a window, the best by the segmenter's own score")
    assistant: AssistantSettings = Field(AssistantSettings(), description="the assistant")
    rectification: RectificationSettings = Field(RectificationSettings(), description="its adaptation (DAR)")
    fusion: FusionSettings = Field(FusionSettings(), description="how masks vote (CTCF)")
    student: StudentSettings = Field(StudentSettings(), description="the student (MKA)")
    phases: Literal["two", "joint"] = Field(
        "two",
        description="two: first the assistant is adapted, then the student learns from it; joint: a step of each in "
        "turn, for student.steps, with pseudo maps of the moment",
    )
    measure_ensemble: bool = Field(False, description="measure the pseudo maps on the test panoramas too: masks there")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.phases == "joint" and self.student.targets != "ensemble":
            raise ValueError("phases=joint makes pseudo maps as it goes on: set student.targets=ensemble")
        return self
