"""Read the masks of photos from pictures beside them: object against background, or a number for each object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from weaksam.config import Settings, UserError
from weaksam.data.file_errors import reads
from weaksam.data.images import FORMATS, LIMITS
from weaksam.data.text_files import read_json
from weaksam.regular_files import open_regular
from weaksam.structures.boxes import clip
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks, rle_from_mask

KVASIR_BOXES = "boxes by the names of photos (Kvasir-SEG's kavsir_bboxes.json)"
HALF = 128
"""Value from which on a pixel of a two-valued picture is object; JPEG leaves others in between."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class MaskPictures(Settings):
    """A folder of pictures, each the masks of the photo of the same name, as many published sets have them."""

    folder: Path = Field(description="folder of the pictures, in sub-folders as the photos are")
    kind: Literal["binary", "ids"] = Field(
        "binary",
        description="binary: one object, white on black; ids: every value is an object, but those of background",
    )
    suffix: str = Field("", description="what a picture's name has behind the photo's, such as _Segmentation")
    photo_part: str = Field("", description="a folder in photos' paths, in whose place pictures have mask_part")
    mask_part: str = Field("", description="see photo_part")
    background: tuple[int, ...] = Field((0,), description="values of kind=ids that are no object")
    more_background: dict[str, tuple[int, ...]] = Field(
        {}, description="further such values below folders of these names, such as OCID's tables"
    )
    boxes: Path | None = Field(
        None,
        description="JSON of boxes by the photos' names (Kvasir-SEG): each is an object, the mask inside it; none: one "
        "object a picture",
    )


@reads("pictures of masks")
def read_mask_pictures(settings: MaskPictures, samples: Mapping[str, Sample]) -> dict[str, Instances]:
    """The objects of photos by image id, all of class 0; a picture without an object gives the empty value.

    Pictures are found by the photos' names without ending. Photos without one are left out. Raises `UserError` for a
    folder without a picture of any photo, and for a picture that cannot be read or is of another size than its photo.
    """
    if not settings.folder.is_dir():
        raise UserError(f"wanted a folder of pictures with masks at {settings.folder}, found none: name the folder")
    boxes = None if settings.boxes is None else read_boxes(settings.boxes)
    objects = {}
    for image_id, sample in samples.items():
        path = picture_of(settings, image_id)
        if path is None:
            continue
        inside = None if boxes is None else boxes.get(PurePosixPath(image_id).stem, [])
        objects[image_id] = _instances(_masks(settings, path, image_id, sample.size, inside))
    if not objects:
        example = next(iter(samples), "a photo")
        raise UserError(
            f"wanted pictures with the masks of {len(samples)} photos in {settings.folder}, found none named as "
            f"{example} with {settings.suffix or 'nothing'} behind it: name their folder, or set suffix, photo_part "
            "and mask_part"
        )
    return objects


def picture_of(settings: MaskPictures, image_id: str) -> Path | None:
    """Where the masks of a photo lie; None where there is no such file."""
    photo = PurePosixPath(image_id)
    parts = [
        settings.mask_part if settings.photo_part and part == settings.photo_part else part for part in photo.parts
    ]
    stem = settings.folder.joinpath(*parts[:-1]) / f"{photo.stem}{settings.suffix}"
    return next((path for ending in SUFFIXES if (path := stem.parent / f"{stem.name}{ending}").is_file()), None)


def _masks(
    settings: MaskPictures, path: Path, image_id: str, size: tuple[int, int], boxes: list[list[float]] | None
) -> Iterator[np.ndarray]:
    """The masks of one picture, bool ``(H, W)``, in the order of their numbers or ``boxes``."""
    values = _values(path)
    if values.shape != size:
        raise UserError(
            f"wanted a picture of the size of {image_id}, {size[1]} x {size[0]}, found {path} of {values.shape[1]} x "
            f"{values.shape[0]}: give that of the photo"
        )
    if settings.kind == "ids":
        none = set(settings.background)
        for name, further in settings.more_background.items():
            none |= set(further) if name in PurePosixPath(image_id).parts else set()
        yield from (values == value for value in np.unique(values).tolist() if value not in none)
        return
    mask = values >= (HALF if values.max(initial=0) > 1 else 1)  # some hold 0 and 1
    if boxes is None:
        yield mask
        return
    for x1, y1, x2, y2 in clip(torch.tensor(boxes).reshape(-1, 4), size).round().long().tolist():
        inside = np.zeros_like(mask)
        inside[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
        yield inside


def _values(path: Path) -> np.ndarray:
    """A picture's values ``(H, W)``: palette indices, numbers of 16 bits, greys; of colours one number each."""
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > LIMITS.max_pixels:
                raise ValueError(f"of {picture.width} x {picture.height} pixels, over {LIMITS.max_pixels:,}")
            values = np.array(picture.convert("L") if picture.mode in ("1", "LA", "YCbCr", "CMYK") else picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"wanted a picture with masks at {path}, found one that cannot be read ({error})") from None
    if values.ndim == 3:
        red, green, blue = (values[:, :, channel].astype(np.int64) for channel in range(3))
        grey = (red == green).all() and (green == blue).all()
        return red if grey else (red << 16) + (green << 8) + blue
    return values


def _instances(masks: Iterator[np.ndarray]) -> Instances:
    """Those that have a pixel, with their tight boxes."""
    kept = [torch.from_numpy(mask) for mask in masks if mask.any()]
    if not kept:
        return Instances.empty(masked=True)
    labels = torch.zeros(len(kept), dtype=torch.long)
    return Instances(boxes_from_masks(torch.stack(kept)), labels, masks=tuple(rle_from_mask(mask) for mask in kept))


def read_boxes(path: Path) -> dict[str, list[list[float]]]:
    """Boxes xyxy by the photos' names without ending, from Kvasir-SEG's JSON; raises `UserError` for another file.

    Their corners are pixels; the lower right one lies inside.
    """
    content = read_json(path, KVASIR_BOXES)
    try:
        return {
            PurePosixPath(name).stem: [
                [box["xmin"], box["ymin"], box["xmax"] + 1, box["ymax"] + 1] for box in entry["bbox"]
            ]
            for name, entry in content.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"wanted {KVASIR_BOXES} at {path}, found none that can be read ({error}): name that file"
        ) from None


def chosen(samples: Mapping[str, Sample], pattern: str) -> dict[str, Sample]:
    """The photos whose image id fits ``pattern`` (``*`` and ``?`` stand for anything, ``/`` too)."""
    return {image_id: sample for image_id, sample in samples.items() if fnmatch(image_id, pattern)}
