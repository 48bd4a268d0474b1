"""Define the settings of an adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from weaksam.config import Settings
from weaksam.data.dataset import SplitSettings
from weaksam.data.formats.mask_pictures import MaskPictures
from weaksam.recipes.sam_adaptation.prompts import KINDS, NUM_POINTS, PromptKind
from weaksam.sam.build import SegmenterSettings
from weaksam.sam.lora import RANK


class AdaptSplit(SplitSettings):
    """Photos with their instances: a truth of any format, or pictures of masks beside the photos."""

    masks: MaskPictures | None = Field(None, description="pictures with the masks of the photos, instead of truth")
    only: str = Field("*", description="pattern of the photos' paths below images; others are left out")


class AdaptData(Settings):
    """The photos of an adaptation."""

    train: AdaptSplit = Field(
        AdaptSplit(), description="photos to adapt to; truth: masks or boxes of their instances, the weak labels"
    )
    test: AdaptSplit | None = Field(None, description="photos with true masks to measure on; none: no figures")
    divide: str | None = Field(
        None,
        pattern=r"^[1-9]\d*:1$",
        description="k:1 divides the photos of train, in the order of their paths: k to adapt to, one to measure on, "
        "and so on; none: test says what to measure on",
    )

    @model_validator(mode="after")
    def _one_test_split(self) -> Self:
        if self.divide is not None and self.test is not None:
            raise ValueError("data.divide takes its test photos from data.train, found data.test too: remove one")
        return self


class AdaptSettings(Settings):
    """Which segmenter is adapted to which photos, by which prompts, and how long."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset(
        {"data", "out", "device", "threads", "max_cache_gib", "recompute", "measured", "pictures"}
    )
    _as_before: ClassVar[Mapping[str, Any]] = {"ema": None}

    data: AdaptData = Field(AdaptData(), description="photos to adapt to, and photos to measure on")
    out: Path = Field(Path("work_dirs/adapt_sam"), description="folder for everything that is made")
    seed: int = Field(0, ge=0, description="the one seed")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none leaves its own choice")
    segmenter: SegmenterSettings = Field(
        SegmenterSettings(family="nano"), description="the segmenter to adapt: segment-anything's weights, or sam_nano"
    )
    prompts: Literal["given", "pseudo_gt"] = Field(
        "given",
        description="given: drawn from the labels of data.train.truth, as published; pseudo_gt: the boxes that a run "
        "made from tags",
    )
    run: Path | None = Field(None, description="folder of that run, for prompts=pseudo_gt")
    prompt: PromptKind = Field("box", description="what prompts an instance: box, point, coarse_box, or coarse_mask")
    num_points: int = Field(NUM_POINTS, ge=1, description="positive points of an instance, and as many negative ones")
    targets: Literal["pseudo", "true"] = Field(
        "pseudo", description="pseudo: the teacher's masks teach (WeSAM); true: the true masks do, the upper bound"
    )
    legacy: bool = Field(
        False, description="compute losses and inputs as the released code does (docs/sam_adaptation.md)"
    )
    anchor: bool = Field(True, description="tie both views to the masks of the segmenter as it was")
    contrast: bool = Field(True, description="tell the prototypes of instances apart")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an average of the updates that makes the pseudo labels; none: WeSAM's own",
    )
    rank: int = Field(RANK, ge=1, description="rank of the low-rank updates")
    steps: int = Field(1000, ge=1, description="optimizer steps; published: 40,000 photos in all")
    batch_size: int = Field(1, ge=1, description="photos of a step")
    most_masks: int = Field(40, ge=1, description="most instances of a photo in a step, drawn anew each time")
    lr: float = Field(1e-4, gt=0, description="Adam's learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="Adam's L2 penalty")
    warmup_steps: int = Field(250, ge=0, description="steps in which the learning rate rises")
    recompute: bool = Field(
        False, description="recompute the encoder's blocks on the way back: far less memory, more time, same gradients"
    )
    max_cache_gib: float = Field(1.0, ge=0, description="room for what the anchor says of all views, which stays")
    pictures: int = Field(4, ge=0, description="test photos on OUT/compared.png: masks before, after, and true")
    measured: tuple[PromptKind, ...] = Field(
        KINDS, min_length=1, description="kinds of prompts that the figures are of; a mask only where one can prompt"
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.prompts == "pseudo_gt" and self.run is None:
            raise ValueError("prompts=pseudo_gt takes the boxes that a run made from tags: set run to its folder")
        if self.prompts == "pseudo_gt" and self.data.divide is not None:
            raise ValueError("the run made pseudo boxes of its own training photos: give data.test, not data.divide")
        if self.prompts == "pseudo_gt" and self.targets == "true":
            raise ValueError("targets=true learns the true masks, of which pseudo boxes have none: set prompts=given")
        if self.prompts == "pseudo_gt" and self.prompt.startswith("coarse"):
            raise ValueError("a coarse prompt is drawn from a mask, which pseudo boxes lack: set prompt=box or point")
        return self
