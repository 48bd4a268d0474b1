"""Define the settings of end-to-end training: trunk, optimisers and schedules as published, and photo sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from weaksam.config import Settings
from weaksam.engine.mixed_precision import Precision

Sides = tuple[int, ...]


class EndToEndSettings(Settings):
    """Training of the whole network, as published; unset fields of the recipes are in configs/voc07_mist.yaml etc."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"read_ahead", "save_minutes", "save_steps"})
    _renamed: ClassVar[Mapping[str, str]] = {"colours": "backbone.colours, which every stage follows"}

    short_sides: Sides = Field(
        (480, 576, 688, 864, 1000, 1200), description="a photo's shorter side in training, one drawn each time, pixels"
    )
    test_short_sides: Sides = Field(
        (480, 576, 688, 864, 1000, 1200), description="shorter sides whose scores and boxes are averaged in detecting"
    )
    most_long_side: int = Field(2000, ge=32, le=8192, description="the longer side never exceeds this, pixels")
    flip_test: bool = Field(True, description="average over the mirror images, too")
    lighting: float = Field(0.0, ge=0, le=1, description="strength of random lighting (AlexNet's PCA noise)")
    stride8: bool = Field(True, description="VGG-16 without its fourth pooling and conv5 dilated, as published")
    last_relu: bool = Field(True, description="keep VGG-16's last ReLU (OICR) or not (MIST)")
    frozen_stages: int = Field(2, ge=0, le=6, description="first stages of the backbone that keep their weights")
    roi_pooling: Literal["align", "pool"] = Field("pool", description="RoIAlign or RoIPool")
    deterministic: bool = Field(False, description="the gradient of RoI pooling is the same in every run, on GPUs too")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="SGD has momentum 0.9")
    bias_lr_factor: float = Field(2.0, gt=0, description="learning rate of biases, times lr")
    bias_weight_decay: float = Field(0.0, ge=0, description="weight decay of biases")
    branch_lr_factor: float = Field(1.0, gt=0, description="learning rate of the refinement branches, times lr")
    schedule: Literal["steps", "cosine"] = Field("steps", description="how the learning rate falls after the warm-up")
    milestones: tuple[float, ...] = Field((2 / 3, 0.89), description="shares of the training at which lr falls")
    gamma: float = Field(0.1, gt=0, description="lr is multiplied by this at each milestone")
    warmup_ratio: float = Field(1 / 3, gt=0, le=1, description="share of lr that the warm-up starts from")
    num_steps: int | None = Field(None, ge=1, description="steps of the whole training, instead of num_epochs")
    photos_at_once: int | None = Field(
        None,
        ge=1,
        description="photos of a step that pass the network together; none: all. Fewer take less memory, and Concrete "
        "DropBlock then normalises over fewer RoIs (docs/wsod.md)",
    )
    precision: Precision = Field("auto", description="arithmetic of the forward pass; auto: 16 bits on a GPU")
    drop_block: bool = Field(False, description="MIST's Concrete DropBlock, an adversary with its own optimiser")
    drop_rate: float = Field(0.3, gt=0, lt=1, description="share of a RoI's cells that the adversary may drop")
    adversary_weight: float = Field(0.01, gt=0, description="the adversary maximises the losses times this")
    adversary_lr: float = Field(1e-5, gt=0, description="its learning rate")
    adversary_gamma: float = Field(3.0, gt=0, description="what its learning rate is multiplied by at each milestone")
    read_ahead: int = Field(4, ge=0, description="batches whose photos are decoded in advance, on threads")
    save_minutes: float = Field(5.0, gt=0, description="how often the state is saved, beside the end of each epoch")
    save_steps: int | None = Field(
        None, ge=1, description="save the state after so many steps, too; none: time decides"
    )

    @field_validator("short_sides", "test_short_sides")
    @classmethod
    def _usable(cls, value: Sides) -> Sides:
        if not value or min(value) < 32:
            raise ValueError("give at least one shorter side, each of 32 pixels or more")
        return value
