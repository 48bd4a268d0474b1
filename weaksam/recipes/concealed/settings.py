"""Define the settings of concealed-object segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from weaksam.config import Settings
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.concealed.network import ConcealedNetworkSettings
from weaksam.sam.build import SegmenterSettings
from weaksam.sam.ensemble import MAX_ABSOLUTE, MAX_RELATIVE, NUM_VIEWS, POOL_SIZE, PixelWeights, RelativeTo


class ConcealedSplit(Settings):
    """Where one split lies."""

    root: Path | None = Field(None, description="folder that holds Imgs, GT and Scribble, as the published sets do")
    images: Path | None = Field(None, description="folder of photos; by default ROOT/Imgs")
    truth: Path | None = Field(None, description="folder of true masks, one PNG a photo; by default ROOT/GT if there")
    scribbles: Path | None = Field(
        None,
        description="folder of scribbles or points, one PNG a photo: 0 nothing, 1 object, 2 background; by default "
        "ROOT/Scribble if there",
    )


class ConcealedData(Settings):
    """The photos of a training."""

    train: ConcealedSplit = Field(
        ConcealedSplit(), description="photos to learn from; their truth is for figures alone"
    )
    validation: ConcealedSplit | None = Field(
        None, description="photos with truth that choose among the epochs; none: the last epoch is taken"
    )
    test: ConcealedSplit | None = Field(None, description="photos to draw maps of; with truth they are measured")


class FusedLabelSettings(Settings):
    """How a frozen segmenter turns weak labels into masks, and which pixels and photos are believed."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset(
        {"config", "weights", "select", "relative_to", "max_absolute", "max_relative"}
    )

    prompt: Literal["scribble", "points", "boxes"] = Field(
        "scribble",
        description="scribble: each connected stroke prompts by itself; points: all points prompt together; boxes: the "
        "pseudo boxes that a run made from tags, each by itself",
    )
    run: Path | None = Field(
        None, description="folder of that run, for prompt=boxes; where its stages are not finished, they run first"
    )
    config: Path | None = Field(
        None,
        description="config of 'weaksam pseudo-gt' (photos with tags) that makes that run, by default in OUT/boxes; "
        "none: the run's own record is followed",
    )
    num_points: int = Field(
        3,
        ge=1,
        description="points that each stroke (all points) and the background give a prompt, drawn anew each view",
    )
    views: int = Field(NUM_VIEWS, ge=0, description="augmented views that are fused; 0: the photo itself, once")
    draws: int = Field(1, ge=1, description="fused maps that are made of a photo; of several a pool keeps the best")
    pool: int = Field(POOL_SIZE, ge=1, description="maps in that pool, whose mean is the label")
    weights: PixelWeights = Field(
        "soft", description="how far a pixel counts: soft, 1 - entropy; hard, not at all between 0.3 and 0.7; off"
    )
    select: bool = Field(True, description="train on photos alone whose fused map is certain enough")
    relative_to: RelativeTo = Field(
        "foreground", description="certain pixels of the relative uncertainty: those of the foreground, or of the photo"
    )
    max_absolute: float = Field(MAX_ABSOLUTE, gt=0, description="photos from this absolute uncertainty on are left out")
    max_relative: float = Field(MAX_RELATIVE, gt=0, description="photos from this relative uncertainty on are left out")


class ConcealedTrainingSettings(Settings):
    """How the network is trained."""

    side: int = Field(384, ge=32, description="height and width of the input; the paper says 352, its code 384")
    num_epochs: int = Field(160, ge=1, description="passes over the photos")
    batch_size: int = Field(36, ge=1, description="photos of a step, of all processes together")
    lr: float = Field(1e-4, gt=0, description="Adam's learning rate")
    schedule: Literal["cyclic", "steps", "cosine"] = Field(
        "cyclic",
        description="cyclic: a cosine of period 80 epochs down to 1e-6, as the released code; steps: a tenth every 80 "
        "epochs, as the paper; cosine: down to 0 once",
    )
    clip_value: float | None = Field(0.5, gt=0, description="each number of the gradient is cut to this")
    partial: bool = Field(True, description="learn the scribbles themselves too (partial cross-entropy)")
    uncertainty: Literal["epoch", "training", "off"] = Field(
        "epoch",
        description="the uncertainty-aware loss grows within each epoch (published), over the training, or is off",
    )
    augment: bool = Field(True, description="flips, crops, rotations and colours")
    validate_from: float = Field(0.5, ge=0, le=1, description="share of the epochs after which validation begins")
    validate_every: int = Field(1, ge=1, description="epochs between validations")


class ConcealedSettings(Settings):
    """Segment concealed objects with a network that learned from scribbles, points, or tags (WS-SAM)."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"data", "out", "device", "threads"})

    data: ConcealedData = Field(ConcealedData(), description="photos to train on, to choose by, and to measure on")
    out: Path = Field(Path("work_dirs/concealed"), description="folder for everything that is made")
    seed: int = Field(0, ge=0, description="the one seed")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none leaves its own choice")
    segmenter: SegmenterSettings = Field(SegmenterSettings(), description="the frozen segmenter that makes the labels")
    labels: FusedLabelSettings = Field(FusedLabelSettings(), description="from weak labels to masks")
    targets: Literal["pseudo", "true"] = Field(
        "pseudo", description="pseudo: learn the segmenter's masks; true: learn data.train.truth, the upper bound"
    )
    backbone: BackboneSettings = Field(BackboneSettings(name="resnet50"), description="the network's backbone")
    network: ConcealedNetworkSettings = Field(ConcealedNetworkSettings(), description="what stands on the backbone")
    training: ConcealedTrainingSettings = Field(ConcealedTrainingSettings(), description="how it is trained")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.prompted_by_boxes and self.labels.run is None and self.labels.config is None:
            raise ValueError(
                "labels.prompt=boxes takes the boxes that a run makes from tags: set labels.run to its folder, or "
                "labels.config to a config that makes it"
            )
        return self

    @property
    def prompted_by_boxes(self) -> bool:
        """Whether the pseudo boxes of a run prompt."""
        return self.labels.prompt == "boxes" and self.targets == "pseudo"

    @property
    def boxes_run(self) -> Path:
        """The folder of that run."""
        return self.labels.run or self.out / "boxes"
