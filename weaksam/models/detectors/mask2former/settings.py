"""Define the settings of Mask2Former: its shape, its losses, and which of its masks are detections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weaksam.config import Settings
from weaksam.models.detectors.photo_settings import PhotoSettings

Body = Literal["backbone", "swin_tiny", "swin_small", "swin_base", "swin_large"]


class MaskLossSettings(Settings):
    """Weights of the losses, which are those of the matching too, and the points that masks are compared at.

    Defaults are the published ones (Cheng et al., CVPR 2022, section 4.1) but for the number of points.
    """

    class_weight: float = Field(2.0, ge=0)
    """Weight of the cross-entropy of the classes."""
    mask_weight: float = Field(5.0, ge=0)
    """Weight of the binary cross-entropy of the masks."""
    dice_weight: float = Field(5.0, ge=0)
    """Weight of the dice loss of the masks."""
    no_object_weight: float = Field(0.1, gt=0, le=1)
    """Weight of a query without an object in the cross-entropy of the classes."""
    num_points: int = Field(3136, ge=16)
    """Points of a photo, or of a pair of masks, that costs and losses are computed at; published: 12,544."""
    oversampling: float = Field(3.0, ge=1)
    """Times as many points are drawn, of which the most uncertain are kept ..."""
    uncertain_share: float = Field(0.75, ge=0, le=1)
    """... for this share of the points of a loss; the rest is drawn anywhere."""


class Mask2FormerSettings(PhotoSettings):
    """The shape of the network, its losses, and which of its masks are detections; the defaults fit a CPU."""

    body: Body = "backbone"
    """The network that reads the photos: the run's backbone, or a Swin Transformer, which starts from ``init``."""
    channels: int = Field(128, ge=32, multiple_of=32)
    """Depth of the maps, queries and masks; published: 256."""
    encoder_layers: int = Field(3, ge=1, le=100)
    """Layers of deformable attention over the maps of stride 8, 16 and 32; published: 6."""
    decoder_layers: int = Field(6, ge=1, le=100)
    """Layers of the decoder, each of which attends to one of these maps inside the masks so far; published: 9."""
    encoder_width: int = Field(256, ge=8)
    """Hidden width of the encoder's feed-forward networks; published: 1,024."""
    decoder_width: int = Field(512, ge=8)
    """Hidden width of the decoder's; published: 2,048."""
    num_heads: Literal[1, 2, 4, 8, 16, 32] = 8
    """Heads of every attention."""
    num_queries: int = Field(50, ge=1)
    """Masks that are predicted of a photo; published: 100."""
    trainable_layers: int = Field(4, ge=0, le=6)
    """Stages of the backbone that train, counted from the deepest; 6 is all of them. A Swin Transformer trains
    wholly, or with 0 not at all."""
    losses: MaskLossSettings = MaskLossSettings()
    """Weights and points of the losses."""
    min_score: float = Field(0.001, ge=0, le=1)
    """Detections below this score, the class's probability times the mean probability inside the mask, are dropped."""
    mask_threshold: float = Field(0.5, gt=0, lt=1)
    """Pixels of more than this probability belong to the mask."""
