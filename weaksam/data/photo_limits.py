"""Define how large a photo may be: in bytes, and in pixels as its header claims them."""

from __future__ import annotations

from pydantic import Field

from weaksam.config import Settings

MOST_PIXELS = 357_913_940
"""The largest limit that can be set, in pixels: Pillow opens no larger picture."""


class PhotoLimits(Settings):
    """The largest photo that is read; both limits are checked before a photo is decoded, and before it is read whole.

    A photo over a limit is set aside as one that cannot be read is.
    """

    max_pixels: int = Field(
        120_000_000,
        ge=1,
        le=MOST_PIXELS,
        description="width times height as the header says",
    )
    max_bytes: int = Field(512 << 20, ge=1, description="size of the file")
