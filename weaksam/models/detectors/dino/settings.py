"""Define the shape of the DINO detector, its denoising and how its detections are chosen."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from weaksam.config import Settings
from weaksam.models.detectors.photo_settings import PhotoSettings


class DinoShape(Settings):
    """Sizes of the transformer; the published detector has 256 dimensions, 2,048, 6 + 6 layers and 900 queries."""

    _as_before: ClassVar[dict[str, Any]] = {"implementation": "mmdet"}

    implementation: Literal["mmdet", "detrex"] = "mmdet"
    """Whose network it is: weights that mmdet or that detrex published want their own (docs/dino.md)."""
    num_levels: int = Field(4, ge=3, le=6)
    """Levels of the pyramid, each half as large as the one before: 4 (strides 8 to 64) or 5 (4 to 64) are published."""
    embed_dims: int = Field(128, ge=16, multiple_of=8)
    """Depth of every level and query."""
    num_heads: int = Field(8, ge=1)
    """Heads of every attention; divides ``embed_dims``."""
    num_points: int = Field(4, ge=1)
    """Cells that a head reads from each level."""
    ffn_dims: int = Field(512, ge=8)
    """Width of the hidden layer between attentions."""
    norm_groups: int = Field(32, ge=1)
    """Groups of the pyramid's group-norm; divides ``embed_dims``, which is larger: a group of one channel has no spread
    where a level is a single cell."""
    encoder_layers: int = Field(3, ge=1)
    """Layers that refine the pyramid."""
    decoder_layers: int = Field(3, ge=1)
    """Layers that refine the queries; each predicts classes and boxes."""
    num_queries: int = Field(100, ge=1)
    """Cells of the encoder that become queries, at most as many as there are cells."""
    num_denoising: int = Field(100, ge=0)
    """Queries made of noisy true boxes in training, about; 0: no denoising."""
    label_noise: float = Field(0.5, ge=0, le=1)
    """Half of this share of denoising queries starts from a random class."""
    box_noise: float = Field(1.0, ge=0)
    """Corners of denoising queries move by at most half of this share of the box's sides, of negative ones by up to
    twice as much."""

    @model_validator(mode="after")
    def _dims_divide(self) -> DinoShape:
        """Heads and groups divide the dimensions."""
        for name, divisor in (("num_heads", self.num_heads), ("norm_groups", self.norm_groups)):
            if self.embed_dims % divisor:
                raise ValueError(
                    f"{name} must divide embed_dims, found {divisor} and {self.embed_dims}: change one of them"
                )
        if self.norm_groups == self.embed_dims:
            raise ValueError(
                f"norm_groups must be less than embed_dims, found {self.norm_groups} for both: lower norm_groups"
            )
        return self


class DinoDetectorSettings(DinoShape, PhotoSettings):
    """The detector on its backbone."""

    trainable_layers: int = Field(4, ge=0, le=6)
    """Stages of the backbone that train, counted from the deepest; the rest stays frozen. Published: 3 of ResNet-50's
    5."""
    nms_iou: float = Field(0.6, gt=0, le=1)
    """Detections of one class that overlap a better one by more than this IoU are dropped where several views of a
    photo are merged; those of a single view are not suppressed."""
