"""Define what every detector of any kind is told: the size of photos, and how many detections are kept."""

from __future__ import annotations

from pydantic import Field

from weaksam.config import Settings


class PhotoSettings(Settings):
    """The size that photos are shown in, and which detections are kept."""

    short_side: int = Field(288, ge=64)
    """Photos are resized to this short side, in pixels, ..."""
    long_side: int = Field(416, ge=64)
    """... unless the long side would then exceed this."""
    min_score: float = Field(0.001, ge=0, le=1)
    """Detections below this score are dropped; average precision wants the weak ones too."""
    max_boxes: int = Field(100, ge=1)
    """Detections kept per photo, best first."""
