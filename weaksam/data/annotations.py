"""Hold what every reader of annotations returns: classes, and the objects of each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, rle_from_polygons


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


@dataclass
class ObjectRows:
    """The objects of one image while they are read, one list entry each."""

    boxes: list[Sequence[float]]
    labels: list[int]
    masks: list[Rle | None]
    scores: list[float | None]
    difficult: list[bool]
    crowd: list[bool]

    @classmethod
    def none(cls) -> "ObjectRows":
        """No objects yet."""
        return cls([], [], [], [], [], [])

    def add(
        self,
        box: Sequence[float],
        label: int,
        *,
        mask: Rle | None = None,
        score: float | None = None,
        difficult: bool = False,
        crowd: bool = False,
    ) -> None:
        """Append one object; ``box`` is half-open xyxy, and inverted corners make it empty."""
        x1, y1, x2, y2 = box
        self.boxes.append((x1, y1, max(x1, x2), max(y1, y2)))
        self.labels.append(label)
        self.masks.append(mask)
        self.scores.append(score)
        self.difficult.append(difficult)
        self.crowd.append(crowd)

    def instances(self, *, with_masks: bool, size: tuple[int, int]) -> Instances:
        """The objects as one value; ``size`` is the image's (H, W), used for masks only.

        Scores are None unless every object has one. With ``with_masks`` an object that has no mask gets its box as one.
        """
        scored = bool(self.scores) and all(score is not None for score in self.scores)
        masks = None
        if with_masks:
            pairs = zip(self.masks, self.boxes, strict=True)
            masks = tuple(mask or rle_from_box(box, size) for mask, box in pairs)
        return Instances(
            boxes=torch.tensor(self.boxes, dtype=torch.float64).reshape(-1, 4).float(),
            labels=torch.tensor(self.labels, dtype=torch.int64),
            scores=torch.tensor(self.scores, dtype=torch.float32) if scored else None,
            masks=masks,
            difficult=torch.tensor(self.difficult, dtype=torch.bool),
            crowd=torch.tensor(self.crowd, dtype=torch.bool),
        )


def rle_from_box(box: Sequence[float], size: tuple[int, int]) -> Rle:
    """RLE of the filled rectangle of a half-open xyxy ``box`` in pixels, in an image of ``size`` (H, W)."""
    x1, y1, x2, y2 = box
    return rle_from_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]], size)


def tag_labels(objects: Instances) -> tuple[int, ...]:
    """Sorted labels of an image's objects, without those marked difficult, as a tagger would say; no objects: none."""
    labels = objects.labels if objects.difficult is None else objects.labels[~objects.difficult]
    return tuple(sorted(set(labels.tolist())))
