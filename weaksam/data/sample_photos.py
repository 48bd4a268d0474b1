"""Read the photo of a sample after checking that its bytes are those that the dataset's fingerprint names."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from weaksam.config import UserError
from weaksam.data.images import LIMITS, BadImage, decode_image, verify_image
from weaksam.data.photo_limits import MOST_PIXELS, PhotoLimits
from weaksam.data.read_ahead import ReadAhead
from weaksam.regular_files import TooLargeError, read_regular
from weaksam.structures.dataset import Dataset, Sample

_OF_LOADED = PhotoLimits(max_pixels=MOST_PIXELS)
"""A photo whose hash is known was held to the limits of its settings when it was loaded."""
PHOTOS_AHEAD = 4
"""Photos that are decoded in advance."""
_of_thread = threading.local()
"""What the thread reads ahead, as ``ahead``."""


def read_photo(sample: Sample) -> np.ndarray:
    """The photo as uint8 RGB ``(H, W, 3)``, upright; its file is read once, hashed and decoded from memory.

    Every stage reads photos here. Raises `UserError` where the file is not the one whose SHA-256 the sample has: it was
    replaced, cut short or removed since the dataset was loaded. A sample without a hash is not compared. In a block of
    `reading_ahead` the photo may have been decoded already.
    """
    ahead: _PhotosAhead | None = getattr(_of_thread, "ahead", None)
    return _read(sample) if ahead is None else ahead.take(sample)


def _read(sample: Sample) -> np.ndarray:
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


@contextmanager
def reading_ahead(samples: Sequence[Sample], num_ahead: int = PHOTOS_AHEAD) -> Iterator[None]:
    """In the block `read_photo` gives this thread photos of ``samples`` that other threads decode in advance.

    Nothing is read before the first of them is asked for. They should be asked for in their order: one that is left out
    was decoded for nothing, and one before it is read in its turn, as are photos of other samples. A photo that cannot
    be read raises when it is asked for. No samples change nothing.
    """
    before = getattr(_of_thread, "ahead", None)
    with closing(_PhotosAhead(samples, num_ahead)) as _of_thread.ahead:
        try:
            yield
        finally:
            _of_thread.ahead = before


def rows_reading_ahead(
    dataset: Dataset, row: Callable[[str], Mapping[str, Any]]
) -> Callable[[Sequence[str]], Iterator[Mapping[str, Any]]]:
    """``row(image_id)`` of each image of a part, for `Store.fill_parts`; the photos it reads are decoded in advance."""

    def rows(image_ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        with reading_ahead([dataset.by_id[image_id] for image_id in image_ids]):
            for image_id in image_ids:
                yield {**row(image_id), "image_id": image_id}

    return rows


class _PhotosAhead:
    """The photos of `reading_ahead`."""

    def __init__(self, samples: Sequence[Sample], num_ahead: int) -> None:
        self._samples, self._num_ahead = samples, num_ahead
        self._place_of = {(sample.path, sample.sha256): place for place, sample in enumerate(samples)}
        self._photos: Iterator[np.ndarray | UserError] | None = None
        self._next = 0

    def take(self, sample: Sample) -> np.ndarray:
        """The photo of ``sample``, decoded in advance where it is one of those that are still to come."""
        place = self._place_of.get((sample.path, sample.sha256), -1)
        if place >= 0 and self._photos is None:
            self._photos = iter(ReadAhead(self._samples[place:], _read_or_error, self._num_ahead))
            self._next = place
        if self._photos is None or place < self._next:
            return _read(sample)
        for _ in range(self._next, place):  # left out
            next(self._photos)
        self._next = place + 1
        photo = next(self._photos)
        if isinstance(photo, UserError):
            raise photo
        return photo

    def close(self) -> None:
        """Decode no further ones."""
        if isinstance(self._photos, Generator):
            self._photos.close()


def _read_or_error(sample: Sample) -> np.ndarray | UserError:
    try:
        return _read(sample)
    except UserError as error:
        return error


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
