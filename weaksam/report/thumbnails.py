"""Make small pictures of photos for the page: inside it as long as there is room, else in a folder beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from weaksam.data.sample_photos import read_photo
from weaksam.structures.dataset import Sample

SIDES = (720, 560, 420, 320, 256, 192, 144, 112)
"""Longer sides of the pictures in pixels, of which the largest is taken whose pictures have room."""
QUALITY = 72
MOST_INSIDE = 300
"""Photos whose pictures lie in the page at most; with more they lie beside it."""
BESIDE_SIDE = 320
"""Longer side of the pictures beside the page."""
_TRIED = 8
"""Photos that are encoded to estimate the size of all."""
_BASE64 = 4 / 3


@dataclass(frozen=True)
class Thumbnails:
    """Where the page finds the picture of each photo, in order, and the files that it needs beside it, by name."""

    sources: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)


def thumbnails(
    samples: Sequence[Sample], room: int, folder: str, read: Callable[[Sample], np.ndarray] = read_photo
) -> Thumbnails:
    """Pictures of the ``samples``: up to `MOST_INSIDE` as ``data:`` addresses of ``room`` bytes in all, if they fit.

    With more photos, or where even the smallest do not fit, as files in ``folder``. Pictures are never larger than the
    photo. Photos are read in order, each once; raises `UserError` as `read_photo` does.
    """
    if len(samples) > MOST_INSIDE or room <= 0:
        return _beside(samples, folder, read)
    step = max(1, len(samples) // _TRIED)
    tried = [Image.fromarray(read(sample)) for sample in samples[::step]]
    fitting = [side for side in SIDES if _estimate(tried, side, len(samples)) <= room]
    if not fitting:
        return _beside(samples, folder, read)
    encoded = [_jpeg(Image.fromarray(read(sample)), fitting[0]) for sample in samples]
    for side in (side for side in SIDES if side < fitting[0]):
        if _size(encoded) <= room:
            break
        encoded = [_jpeg(Image.open(io.BytesIO(data)), side) for data in encoded]
    if _size(encoded) > room:
        return _beside(samples, folder, read)
    return Thumbnails(["data:image/jpeg;base64," + base64.b64encode(data).decode() for data in encoded])


def _beside(samples: Sequence[Sample], folder: str, read: Callable[[Sample], np.ndarray]) -> Thumbnails:
    files = {
        f"{folder}/{number:06d}.jpg": _jpeg(Image.fromarray(read(sample)), BESIDE_SIDE)
        for number, sample in enumerate(samples)
    }
    return Thumbnails(list(files), files)


def _estimate(tried: Sequence[Image.Image], side: int, count: int) -> float:
    """Bytes of ``count`` pictures in the page, from those that were ``tried``; 0 of none."""
    return _size([_jpeg(photo, side) for photo in tried]) / max(1, len(tried)) * count


def _size(encoded: Iterable[bytes]) -> float:
    return sum(map(len, encoded)) * _BASE64


def _jpeg(photo: Image.Image, side: int) -> bytes:
    scale = min(1.0, side / max(photo.size))
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    buffer = io.BytesIO()
    photo.resize(size, Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
