"""Read the photo of a sample after checking that its bytes are those that the dataset's fingerprint names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from weaksam.config import UserError
from weaksam.data.images import LIMITS, BadImage, decode_image, verify_image
from weaksam.data.photo_limits import MOST_PIXELS, PhotoLimits
from weaksam.data.read_ahead import ReadAhead
from weaksam.regular_files import TooLargeError, read_regular
from weaksam.structures.dataset import Sample

_OF_LOADED = PhotoLimits(max_pixels=MOST_PIXELS)
"""A photo whose hash is known was held to the limits of its settings when it was loaded."""


def read_photo(sample: Sample) -> np.ndarray:
    """The photo as uint8 RGB ``(H, W, 3)``, upright; its file is read once, hashed and decoded from memory.

    Every stage reads photos here. Raises `UserError` where the file is not the one whose SHA-256 the sample has: it was
    replaced, cut short or removed since the dataset was loaded. A sample without a hash is not compared.
    """
    try:
        data = read_regular(sample.path, max(LIMITS.max_bytes, sample.num_bytes))
    except TooLargeError as error:
        raise _changed(sample, f"one of {error.num_bytes:,} bytes") from None
    except OSError as error:
        raise _changed(sample, f"none that can be opened ({error.strerror or error})") from None
    if not sample.sha256:
        return decode_image(data, sample.path)
    if hashlib.sha256(data).hexdigest() != sample.sha256:
        raise _changed(sample, _other_photo(sample, data))
    return decode_image(data, sample.path, _OF_LOADED)


def read_photos_ahead(samples: Sequence[Sample], num_ahead: int) -> Iterator[np.ndarray]:
    """The photos of ``samples`` in order, as of `read_photo`; up to ``num_ahead`` are decoded in advance on threads.

    What `read_photo` raises is raised when the turn of its photo comes.
    """
    return iter(ReadAhead(samples, read_photo, num_ahead))


def _other_photo(sample: Sample, data: bytes) -> str:
    """What a file of other bytes is, in words."""
    try:
        (height, width), _ = verify_image(data, sample.path)
    except BadImage as error:
        return f"one that {error.reason.partition(': ')[0]}"
    return f"another photo ({width} x {height} pixels, {len(data)} bytes)"


def _changed(sample: Sample, state: str) -> UserError:
    """The error for a sample whose file is not what it was; ``state`` says what is there now."""
    return UserError(
        f"wanted the photo {sample.image_id} as it was when it was loaded, found {state} at {sample.path}: put the "
        "file back and rerun, which keeps all that is finished, or rerun with the photo as it is now, which makes "
        "everything that depends on it again"
    )
