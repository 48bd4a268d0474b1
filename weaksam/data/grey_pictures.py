"""Read folders of grey pictures that belong to photos: maps of a foreground, true masks, scribbles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from weaksam.config import UserError, listed
from weaksam.data.images import FORMATS, LIMITS
from weaksam.data.photos import list_photos
from weaksam.regular_files import open_regular

FOREGROUND_LEVEL = 128
"""Levels above this are foreground in a true mask, as the toolboxes read it."""


def pictures_by_name(folder: Path) -> dict[str, Path]:
    """The pictures below ``folder`` by their name without ending (with its folders), sorted.

    The name is the key by which photos, masks, scribbles and maps are paired. Raises `UserError` for two pictures of
    one name, and for a folder without pictures or that cannot be opened.
    """
    if not folder.is_dir():
        raise UserError(f"wanted a folder of pictures at {folder}, found none: check the path")
    pictures: dict[str, Path] = {}
    for name, path in list_photos(folder).items():
        key = PurePosixPath(name).with_suffix("").as_posix()
        if key in pictures:
            raise UserError(
                f"wanted one picture called {key} in {folder}, found {pictures[key].name} and {path.name}: keep one"
            )
        pictures[key] = path
    return pictures


def require_pairs(wanted: Mapping[str, Path], given: Mapping[str, Path], folder: Path, what: str) -> None:
    """`UserError` where some names of ``wanted`` have no picture of the kind ``what`` among ``given`` of ``folder``."""
    missing = [name for name in wanted if name not in given]
    if missing:
        raise UserError(
            f"wanted {what} of every photo in {folder}, found none of {listed(missing, 3)}: add {_files(missing)}, or "
            "remove the photos"
        )


def _files(names: list[str]) -> str:
    return f"{names[0]}.png" if len(names) == 1 else f"{names[0]}.png and the others"


def read_grey(path: Path) -> np.ndarray:
    """The levels 0..255 of a grey picture, uint8 ``(H, W)``; 16 bits become 8, colours become grey.

    A palette is read as its colours. Raises `UserError` where there is no such picture.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > LIMITS.max_pixels:
                raise ValueError(f"of {picture.width} x {picture.height} pixels, over {LIMITS.max_pixels:,}")
            if picture.mode.startswith("I"):
                return (np.asarray(picture).clip(0, 65535).astype(np.uint32) // 257).astype(np.uint8)
            return np.asarray(picture.convert("L"))
    except FileNotFoundError:
        raise UserError(f"wanted a grey picture at {path}, found nothing there: check the path") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for broken files
        raise UserError(
            f"wanted a grey picture at {path}, found another file ({error}): save it as PNG of 8 bits"
        ) from None


def read_mask(path: Path) -> np.ndarray:
    """A true mask, bool ``(H, W)``: levels above 128, or above 0 where the greatest level is 1."""
    levels = read_grey(path)
    return np.asarray(levels > (0 if levels.max() == 1 else FOREGROUND_LEVEL))
