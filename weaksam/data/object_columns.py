"""Hold the objects of any number of images in flat columns while they are read, and give some of them as one value."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import numpy as np
import torch

from weaksam.data.annotations import rle_from_box
from weaksam.data.plain_columns import values_of
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle

DIFFICULT, CROWD = 1, 2
"""Bits of an object's flags."""


class ObjectColumns:
    """Objects of any images in the order in which they were added, none at first.

    ``images``: the place of each object's image, int32; ``labels``: int32; ``boxes``: x1, y1, x2, y2 of each in pixels,
    float64; ``flags``: uint8, see `DIFFICULT` and `CROWD`; ``scores``: float64, NaN for none, shorter than the others
    where the last objects have none; ``masks``: by number of the object.
    """

    def __init__(self) -> None:
        self.images, self.labels = array("i"), array("i")
        self.boxes, self.scores = array("d"), array("d")
        self.flags = array("B")
        self.masks: dict[int, Rle] = {}
        self._image = 0

    def of_image(self, place: int) -> ObjectColumns:
        """The same columns, to which objects of the image at this place are added next."""
        self._image = place
        return self

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
        if score is not None:
            self.scores.extend([math.nan] * (len(self) - len(self.scores)))
            self.scores.append(score)
        if mask is not None:
            self.masks[len(self)] = mask
        self.images.append(self._image)
        self.labels.append(label)
        self.boxes.extend((x1, y1, max(x1, x2), max(y1, y2)))
        self.flags.append(DIFFICULT * difficult + CROWD * crowd)

    def add_all(self, images: np.ndarray, labels: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> None:
        """Append ``N`` objects without masks and scores: their images, labels and crowd ``(N,)``, boxes ``(N, 4)``.

        As of `add`, but ``x2 >= x1`` and ``y2 >= y1``.
        """
        self.images.frombytes(images.astype(np.int32).tobytes())
        self.labels.frombytes(labels.astype(np.int32).tobytes())
        self.boxes.frombytes(boxes.astype(np.float64).tobytes())
        self.flags.frombytes((CROWD * crowd).astype(np.uint8).tobytes())

    def instances(self, rows: np.ndarray | None = None, *, with_masks: bool, size: tuple[int, int]) -> Instances:
        """The objects of these numbers, all by default, as one value; ``size`` is the image's (H, W), for masks only.

        Scores are None unless every object has one. With ``with_masks`` an object that has no mask gets its box as one.
        """
        rows = np.arange(len(self)) if rows is None else rows
        boxes, flags = values_of(self.boxes).reshape(-1, 4)[rows], values_of(self.flags)[rows]
        masks = None
        if with_masks:
            pairs = zip(rows.tolist(), boxes.tolist(), strict=True)
            masks = tuple(self.masks.get(row) or rle_from_box(box, size) for row, box in pairs)
        return Instances(
            boxes=torch.from_numpy(boxes.astype(np.float32)),
            labels=torch.from_numpy(values_of(self.labels)[rows].astype(np.int64)),
            scores=self._scores(rows),
            masks=masks,
            difficult=torch.from_numpy((flags & DIFFICULT) > 0),
            crowd=torch.from_numpy((flags & CROWD) > 0),
        )

    def _scores(self, rows: np.ndarray) -> torch.Tensor | None:
        """The scores of these objects, float32; None unless each of them, at least one, has one."""
        if not len(rows) or int(rows.max()) >= len(self.scores):
            return None
        scores = values_of(self.scores)[rows]
        return None if np.isnan(scores).any() else torch.from_numpy(scores.astype(np.float32))

    def __len__(self) -> int:
        return len(self.labels)


class ImageRows:
    """The numbers of the objects of each of ``num_images`` images; ``images``: the place of each object's image."""

    def __init__(self, images: array[int], num_images: int) -> None:
        places = values_of(images)
        in_order = bool((places[1:] >= places[:-1]).all())
        self._order = None if in_order else np.argsort(places, kind="stable").astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=num_images))])

    @property
    def num_empty(self) -> int:
        """How many images have no objects."""
        return int((np.diff(self._starts) == 0).sum())

    def of_all(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the objects of the images at these ``places`` (N,), one image after the other, and the number
        of each image's objects ``(N,)``."""
        firsts, counts = self._starts[places], np.diff(self._starts)[places]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(firsts, counts) + within
        return rows if self._order is None else self._order[rows], counts

    def of(self, place: int) -> np.ndarray:
        """The numbers of the objects of one image, in the order in which they were added."""
        first, last = self._starts[place], self._starts[place + 1]
        return np.arange(first, last) if self._order is None else self._order[first:last]
