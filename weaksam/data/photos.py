"""List the photos below a folder, and decode each once to find those that are broken."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from weaksam.config import UserError
from weaksam.data.images import PHOTO_SUFFIXES, BadImage, verify_image

_FOREIGN_SUFFIXES = frozenset({".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2"})
"""Endings of files meant as photos that cannot be read: they get a reason, other files are passed over."""


@dataclass(frozen=True)
class Photo:
    """A readable photo: upright ``size`` (H, W), EXIF ``orientation`` 1-8, and the hash of its bytes."""

    path: Path
    size: tuple[int, int]
    orientation: int
    sha256: str


def list_photos(folder: Path) -> dict[str, Path]:
    """Path by image id (name relative to ``folder``) of every photo below ``folder``, sorted.

    Hidden files are left out. Raises `UserError` where there is none.
    """
    photos = {}
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in PHOTO_SUFFIXES | _FOREIGN_SUFFIXES or not path.is_file():
            continue
        if not any(part.startswith(".") for part in relative.parts):
            photos[relative.as_posix()] = path
    if not photos:
        raise UserError(
            f"wanted photos (.jpg, .png, .webp, .bmp) in {folder}, found none: name the folder of the photos"
        )
    return dict(sorted(photos.items()))


def verify_photos(paths: Mapping[str, Path], bad: dict[str, str]) -> dict[str, Photo]:
    """The readable ones of ``paths`` (by image id); the others go to ``bad`` with the reason, a verb phrase."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # decoding leaves Python's lock
        results = list(pool.map(_verify, paths.values()))
    photos = {}
    for image_id, result in zip(paths, results, strict=True):
        if isinstance(result, Photo):
            photos[image_id] = result
        else:
            bad[image_id] = result
    return photos


def _verify(path: Path) -> Photo | str:
    """The photo at ``path``, or the reason why it cannot be read."""
    try:
        data = path.read_bytes()
        size, orientation = verify_image(data, path)
    except BadImage as error:
        return error.reason
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    return Photo(path, size, orientation, hashlib.sha256(data).hexdigest())
