"""Take photos in any of the forms that Python users have them in: files, pictures of Pillow, arrays, folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from weaksam.config import UserError
from weaksam.data.images import LIMITS, BadImage, read_image
from weaksam.data.photo_limits import PhotoLimits
from weaksam.data.photos import list_photos
from weaksam.data.read_ahead import ReadAhead

OnePhoto = str | Path | np.ndarray | Image.Image
"""A photo: its file, its pixels as uint8 RGB ``(H, W, 3)``, or a picture of Pillow."""
_AHEAD = 4
"""Files that are decoded in advance on threads."""


@dataclass(frozen=True)
class OpenedPhoto:
    """A decoded photo: its name, ``pixels`` uint8 RGB ``(H, W, 3)``, and its file or, where it has none, the pixels."""

    name: str
    pixels: np.ndarray
    source: Path | np.ndarray


@dataclass(frozen=True)
class UnreadablePhoto:
    """A file that is no photo, and why, a verb phrase."""

    name: str
    reason: str


def open_photo(photo: OnePhoto, name: str, limits: PhotoLimits = LIMITS) -> OpenedPhoto:
    """The photo, upright; ``name`` where it bears none itself.

    Raises:
        BadImage: a file that is no photo.
        UserError: an array or a thing of another kind.
    """
    if isinstance(photo, (str, Path)):
        return OpenedPhoto(Path(photo).name, read_image(Path(photo), limits), Path(photo))
    if isinstance(photo, Image.Image):
        file = getattr(photo, "filename", "")
        pixels = np.array(ImageOps.exif_transpose(photo).convert("RGB"))
        return OpenedPhoto(Path(file).name if file else name, pixels, pixels)
    if not isinstance(photo, np.ndarray):
        raise UserError(
            f"wanted a photo as a path, a picture of Pillow or an array, found {type(photo).__name__}: convert it"
        )
    check_pixels(photo)
    pixels = photo if photo.flags.writeable else photo.copy()  # torch shares the memory of arrays it may write to
    return OpenedPhoto(name, pixels, pixels)


def check_pixels(photo: np.ndarray) -> None:
    """`UserError` for an array that is no photo as uint8 RGB ``(H, W, 3)`` of at least one pixel."""
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
        raise UserError(
            f"wanted a photo as uint8 RGB of shape (H, W, 3), found {photo.dtype} of shape {photo.shape}: convert it"
        )


def opened_photos(
    photos: Iterable[OnePhoto], names: Callable[[int], str], limits: PhotoLimits = LIMITS
) -> Iterator[OpenedPhoto | UnreadablePhoto]:
    """The ``photos`` in order, opened as their turn comes; ``names`` gives the name of a number."""
    for number, photo in enumerate(photos):
        yield opened_or_not(photo, names(number), limits)


def opened_or_not(photo: OnePhoto, name: str, limits: PhotoLimits = LIMITS) -> OpenedPhoto | UnreadablePhoto:
    """`open_photo`, or the reason why it is none where it is a file."""
    try:
        return open_photo(photo, name, limits)
    except BadImage as error:
        return UnreadablePhoto(Path(photo).name if isinstance(photo, (str, Path)) else name, error.reason)


def folder_photos(folder: Path, limits: PhotoLimits = LIMITS) -> Iterable[OpenedPhoto | UnreadablePhoto]:
    """The photos below ``folder`` in the order of their names relative to it, decoded on threads ahead.

    Raises `UserError` where there is none.
    """
    files = list(list_photos(folder).items())

    def load(file: tuple[str, Path]) -> OpenedPhoto | UnreadablePhoto:
        name, path = file
        photo = opened_or_not(path, name, limits)
        if isinstance(photo, UnreadablePhoto):
            return UnreadablePhoto(name, photo.reason)
        return OpenedPhoto(name, photo.pixels, path)

    return ReadAhead(files, load, _AHEAD)


def photos_of(source: Any, limits: PhotoLimits = LIMITS) -> Iterable[OpenedPhoto | UnreadablePhoto]:
    """The photos of a folder or of any iterable of photos, opened as their turn comes; `UserError` for other things."""
    if is_folder(source):
        return folder_photos(Path(source), limits)
    if not isinstance(source, Iterable) or isinstance(source, (str, bytes)):
        raise UserError(
            "wanted a path, a picture of Pillow, an array, a list of these, a folder or an iterator, found "
            f"{type(source).__name__}: convert it"
        )
    return opened_photos(source, lambda number: f"photo {number}", limits)


def all_readable(photos: Iterable[OpenedPhoto | UnreadablePhoto]) -> Iterator[OpenedPhoto]:
    """The photos; `BadImage` at the first file that is none."""
    for photo in photos:
        if isinstance(photo, UnreadablePhoto):
            raise BadImage(Path(photo.name), photo.reason)
        yield photo


def is_folder(source: Any) -> bool:
    """Whether a source names a folder."""
    return isinstance(source, (str, Path)) and Path(source).is_dir()


def is_several(source: Any) -> bool:
    """Whether a source is a list or tuple of photos."""
    return isinstance(source, Sequence) and not isinstance(source, (str, bytes))
