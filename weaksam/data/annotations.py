"""Hold what every reader of annotations returns: classes, and the objects of each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, rle_from_polygons

CROSSING = "a polygon that crosses itself was filled by the even-odd rule"
"""What readers say of such a polygon."""


@dataclass(frozen=True)
class ImageTruth:
    """The objects of one image as a file states them; ``number`` and ``size`` (H, W) are None where it does not.

    ``text_id``: the image's id in the file where that is a text and no number, else empty.
    """

    instances: Instances
    number: int | None = None
    size: tuple[int, int] | None = None
    text_id: str = ""


@dataclass(frozen=True)
class Annotations:
    """One annotation file or folder: class names in the file's order, their ids there, and objects by file name."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: Mapping[str, ImageTruth]
    notes: tuple[str, ...] = ()
    """How much was read, and what was taken for what, a phrase each; see `Findings`."""


def rle_from_box(box: Sequence[float], size: tuple[int, int]) -> Rle:
    """RLE of the filled rectangle of a half-open xyxy ``box`` in pixels, in an image of ``size`` (H, W)."""
    x1, y1, x2, y2 = box
    return rle_from_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]], size)


def tag_labels(objects: Instances) -> tuple[int, ...]:
    """Sorted labels of an image's objects, without those marked difficult, as a tagger would say; no objects: none."""
    labels = objects.labels if objects.difficult is None else objects.labels[~objects.difficult]
    return tuple(sorted(set(labels.tolist())))
