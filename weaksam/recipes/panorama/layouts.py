"""Name and decode the class maps of photos: a plain folder, DensePASS, WildPASS and Stanford2D3D."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from weaksam.config import UserError
from weaksam.data.images import LIMITS
from weaksam.data.text_files import read_json
from weaksam.evaluation.class_maps import UNLABELLED
from weaksam.regular_files import read_regular

LayoutName = Literal["plain", "densepass", "wildpass", "stanford2d3d"]
CITYSCAPES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
"""The 19 classes of Cityscapes and DensePASS, in the order of their train ids."""
STANFORD = (
    "beam",
    "board",
    "bookcase",
    "ceiling",
    "chair",
    "clutter",
    "column",
    "door",
    "floor",
    "sofa",
    "table",
    "wall",
    "window",
)
"""The 13 classes of Stanford2D3D (Armeni et al., arXiv 1702.01105), by the alphabet."""


@dataclass(frozen=True)
class Layout:
    """How a data set lays out photos and class maps.

    ``photo``: pattern of the image ids that are photos; others below the folder are left out. ``label_of``: image id to
    the class map's path below the folder of labels. ``classes``: none where the user names them.
    """

    photo: str
    label_of: Callable[[str], str]
    classes: tuple[str, ...] | None = None


def _same_name(image_id: str) -> str:
    return str(PurePosixPath(image_id).with_suffix(".png"))


def _train_ids(image_id: str) -> str:
    return image_id.removesuffix("_.png") + "_labelTrainIds.png"


def _semantic(image_id: str) -> str:
    return re.sub(r"(^|/)rgb/", r"\1semantic/", image_id).removesuffix("_rgb.png") + "_semantic.png"


LAYOUTS: dict[LayoutName, Layout] = {
    "plain": Layout(r".*", _same_name),
    "densepass": Layout(r".*_\.png", _train_ids, CITYSCAPES),  # leftImg8bit/val/1_.png, gtFine/val/1_labelTrainIds.png
    "wildpass": Layout(r".*_\.png", _train_ids),  # as DensePASS; its 8 classes are named by the user
    "stanford2d3d": Layout(r"(?:.*/)?[^/]*_rgb\.png", _semantic, STANFORD),  # area_1/pano/rgb/..., .../semantic/...
}
"""The layouts by name."""


def read_class_map(path: Path, names: np.ndarray | None = None) -> np.ndarray:
    """The class of each pixel, int64 ``(H, W)``, in a PNG of one number a pixel; `UNLABELLED` for none.

    ``names``: class of each instance number where the PNG holds these in its red, green and blue (Stanford2D3D); a
    number beyond them has no class. Raises `UserError` for a file that is missing or no such PNG.
    """
    try:
        data = read_regular(path, LIMITS.max_bytes)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > LIMITS.max_pixels:
                raise UserError(f"wanted a class map at {path}, found one of too many pixels: give a smaller one")
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"wanted a class map (PNG) at {path}, found none that can be read: put it there, or set data.layout and "
            "the folder of labels to fit"
        ) from None
    if (pixels.ndim == 2) == (names is not None):
        wanted = "one number a pixel" if names is None else "instance numbers in red, green and blue"
        raise UserError(f"wanted a class map with {wanted} at {path}, found another kind: set data.layout to fit")
    if names is None:
        return pixels.astype(np.int64)
    colors = pixels[..., :3].astype(np.int64)
    numbers = (colors[..., 0] << 16) + (colors[..., 1] << 8) + colors[..., 2]
    return np.asarray(np.append(names, UNLABELLED)[np.minimum(numbers, len(names))])


def stanford_names(path: Path) -> np.ndarray:
    """Class of each instance number by semantic_labels.json, int64; `UNLABELLED` for names that are no class."""
    wanted = "Stanford2D3D's list of names (data.label_names, its semantic_labels.json)"
    entries = read_json(path, wanted)
    if not isinstance(entries, list):
        raise UserError(f"wanted {wanted} at {path}, found no list: name that file")
    classes = [str(entry).partition("_")[0] for entry in entries]
    return np.array([STANFORD.index(name) if name in STANFORD else UNLABELLED for name in classes], dtype=np.int64)
