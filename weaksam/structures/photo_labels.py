"""Hold what somebody labelled on one photo beside its tags: boxes, masks, points, scribbles, counts, or all objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weaksam.config import fingerprint_of
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, mask_from_rle

SCRIBBLE_POINTS = 3
"""Points of a scribble that prompt a segmenter."""


class Marks(NamedTuple):
    """K marks of one photo, each somewhere on one object: points and scribbles; K = 0 where there is none.

    ``extents``: float32 ``(K, 4)``, the half-open xyxy box around each, without area for a point, in photo pixels.
    ``labels``: int64 ``(K,)``, the class of the object. ``points``: of each mark the points ``(P, 2)`` xy, at least
    one, that prompt a segmenter.
    """

    extents: Tensor
    labels: Tensor
    points: tuple[Tensor, ...]

    @classmethod
    def none(cls) -> Marks:
        """No marks: K = 0."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), ())

    @classmethod
    def of_points(cls, points: Tensor, labels: Tensor) -> Marks:
        """A mark for each of ``points (K, 2)`` xy with ``labels (K,)``."""
        points = points.float()
        return cls(torch.cat([points, points], dim=1), labels, tuple(points[:, None]))

    @classmethod
    def of_scribble(cls, mask: Rle, label: int) -> Marks:
        """The one mark of a scribble's pixels, at least one; see `spread_points` for what prompts."""
        rows, columns = mask_from_rle(mask).nonzero(as_tuple=True)
        pixels = torch.stack([columns, rows], dim=1).float()  # (P, 2) xy
        extent = torch.cat([pixels.amin(dim=0), pixels.amax(dim=0) + 1])
        return cls(extent[None], torch.tensor([label]), (spread_points(pixels + 0.5),))

    @classmethod
    def of_line(cls, points: Tensor, label: int) -> Marks:
        """The one mark of a scribble that was drawn as a line through ``points (P, 2)`` xy, P >= 1."""
        points = points.float()
        extent = torch.cat([points.amin(dim=0), points.amax(dim=0)])
        return cls(extent[None], torch.tensor([label]), (spread_points(points),))

    @classmethod
    def cat(cls, parts: Sequence[Marks]) -> Marks:
        """All marks of ``parts``, in order."""
        parts = [cls.none(), *parts]
        points = tuple(points for part in parts for points in part.points)
        return cls(torch.cat([part.extents for part in parts]), torch.cat([part.labels for part in parts]), points)

    @property
    def are_scribbles(self) -> Tensor:
        """Bool ``(K,)``: the marks that are no single points."""
        drawn: Tensor = (self.extents[:, 2:] > self.extents[:, :2]).any(dim=1)
        return drawn

    def select(self, rows: Tensor) -> Marks:
        """The marks kept by a bool mask ``(K,)``, or at indices, in that order."""
        index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return Marks(self.extents[index], self.labels[index], tuple(self.points[row] for row in index.tolist()))

    def all_points(self) -> tuple[Tensor, Tensor]:
        """Every point that prompts, ``(N, 2)`` xy, and the class of each, ``(N,)``."""
        labels = [torch.full((len(of_mark),), label) for of_mark, label in zip(self.points, self.labels, strict=True)]
        return torch.cat([torch.zeros(0, 2), *self.points]), torch.cat([self.labels[:0], *labels])


def spread_points(points: Tensor, most: int = SCRIBBLE_POINTS) -> Tensor:
    """At most ``most`` of ``points (P, 2)``, P >= 1, far from each other: first the one nearest their middle.

    Then the farthest from all taken before; the first of equals. Fewer where the points are fewer places.
    """
    taken = [int((points - points.mean(dim=0)).square().sum(dim=1).argmin())]
    while len(taken) < most:
        distance = torch.cdist(points, points[taken]).amin(dim=1)
        if float(distance.max()) == 0:
            break
        taken.append(int(distance.argmax()))
    return points[taken]


@dataclass(frozen=True, eq=False)
class PhotoLabels:
    """What is known of one photo's objects beside its tags; any part may be missing.

    boxes: true boxes of some objects, without scores; those marked ``crowd`` are regions to ignore.
    masks: the true mask of each box, None for those without one; as many as boxes.
    marks: points and scribbles on objects.
    counts: number of objects by label.
    complete: whether every object of the photo has a box or a mark, so that all else is background.
    """

    boxes: Instances = field(default_factory=Instances.empty)
    masks: tuple[Rle | None, ...] = ()
    marks: Marks = field(default_factory=Marks.none)
    counts: Mapping[int, int] = field(default_factory=dict)
    complete: bool = False

    def __post_init__(self) -> None:
        """Raise ``ValueError`` where there are not as many masks as boxes."""
        if len(self.masks) != len(self.boxes):
            raise ValueError(
                f"PhotoLabels.masks must be {len(self.boxes)}, one or None per box, found {len(self.masks)}"
            )

    @property
    def objects(self) -> Instances:
        """The boxes of single objects, without regions to ignore."""
        return self.boxes.without_crowd()

    @property
    def says_nothing(self) -> bool:
        """Whether nothing is known."""
        return not (len(self.boxes) or len(self.marks.labels) or self.counts or self.complete)

    def tags(self, tags: Sequence[int]) -> tuple[int, ...]:
        """The photo's sorted tags, which were ``tags``: those of its boxes, marks and counts are added.

        A count of 0 takes its tag away, and a complete photo has no other tags.
        """
        known = {*self.objects.labels.tolist(), *self.marks.labels.tolist()}
        known |= {label for label, count in self.counts.items() if count > 0}
        nowhere = {label for label, count in self.counts.items() if count == 0}
        return tuple(sorted(known if self.complete else known | (set(tags) - nowhere)))

    def key(self) -> dict[str, Any]:
        """All of it as JSON-like values by part, without the parts that are not there."""
        crowd = [] if self.boxes.crowd is None else self.boxes.crowd.nonzero()[:, 0].tolist()
        marks = self.marks
        parts = {
            "boxes": [self.boxes.boxes.tolist(), self.boxes.labels.tolist(), crowd] if len(self.boxes) else [],
            "masks": [None if rle is None else [list(rle["size"]), rle["counts"]] for rle in self.masks],
            "marks": [marks.extents.tolist(), marks.labels.tolist(), [points.tolist() for points in marks.points]],
            "counts": dict(self.counts),
            "complete": self.complete,
        }
        there = {"masks": any(self.masks), "marks": len(marks.labels) > 0}
        return {part: value for part, value in parts.items() if there.get(part, bool(value))}


NO_LABELS = PhotoLabels()
"""Nothing beside the tags."""


def labels_fingerprint(labels: Mapping[str, PhotoLabels], *parts: str) -> str:
    """Hash of these ``parts`` of the labels by image id, of all parts without any; "" where no photo has one of them.

    Parts are the fields of `PhotoLabels`.
    """
    keys = {image_id: of_photo.key() for image_id, of_photo in labels.items()}
    rows = {
        image_id: {part: value for part, value in key.items() if not parts or part in parts}
        for image_id, key in keys.items()
    }
    rows = {image_id: row for image_id, row in rows.items() if row}
    return fingerprint_of(rows) if rows else ""
