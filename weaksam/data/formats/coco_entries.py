"""Read what annotations and results of COCO files share: the class, the box and the mask of an entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from weaksam.data.findings import Findings
from weaksam.data.formats.coco_masks import read_mask
from weaksam.data.image_entries import composed
from weaksam.data.json_entries import LARGEST, JsonEntry, as_file_id, is_number, shown
from weaksam.data.object_columns import ObjectColumns
from weaksam.likeness import Hints
from weaksam.structures.masks import box_from_rle

Size = tuple[int, int]
_XYWH_MODES = (None, 1, "1", "XYWH_ABS", "BoxMode.XYWH_ABS")
"""What ``bbox_mode``, a key of detectron2's entries, may say of a box: x, y, width, height in pixels."""
CORNERS_SHARE = 0.95
"""Boxes are corners if at least this share of them would lie in their photos as corners ..."""
OUTSIDE_SHARE = 0.1
"""... and more than this share reaches out as x, y, width, height, by more than this share of the photo's side."""

_NUMBERS = (int, float)
_COUNTED_AT_ONCE = 4096
"""Boxes that are held until they are counted."""


@dataclass(frozen=True)
class CategoryLabels:
    """The label of each category of a file or dataset, by its id and by its name."""

    by_id: Mapping[int, int]
    by_name: Mapping[str, int]

    @cached_property
    def _hints(self) -> Hints:
        return Hints(map(str, (*self.by_id, *self.by_name)))

    def label(self, entry: JsonEntry) -> int:
        """The label of an entry's ``category_id``, an id or a class's name; `UserError` where it is neither."""
        category = entry.values.get("category_id")
        if type(category) is int and category in self.by_id:
            return self.by_id[category]
        category = as_file_id(category)
        if isinstance(category, int) and category in self.by_id:
            return self.by_id[category]
        if isinstance(category, str) and category not in self.by_name:
            category = next((name for name in self.by_name if composed(name) == composed(category)), category)
        if isinstance(category, str) and category in self.by_name:
            entry.findings.guess("a class's name was taken for its category_id", entry.place)
            return self.by_name[category]
        hint = self._hints(str(category) if isinstance(category, str) else shown(category))
        if category == 0 and set(self.by_id) == set(range(1, len(self.by_id) + 1)):
            hint = " (ids that count from 0? add 1 to each)"
        raise entry.refusal("category_id", f"a category id of the dataset{hint}")


@dataclass
class StatedBoxes:
    """The boxes of a file as it states them, x, y, width, height, with the (H, W) of their image where it is known."""

    rows: list[tuple[Sequence[float], Size]] = field(default_factory=list)
    """Those not counted yet."""
    num_boxes: int = 0
    num_far: int = 0
    num_as_corners: int = 0
    num_above_1: int = 0
    num_fractions: int = 0

    def add(self, box: Sequence[float], size: Size | None) -> None:
        """Take a box; those of an image without a size tell nothing."""
        if size is not None and 0 not in size:
            self.rows.append((box, size))
            if len(self.rows) == _COUNTED_AT_ONCE:
                self._add_rows()

    def _add_rows(self) -> None:
        """Count ``rows``, and forget them."""
        boxes = np.array([box for box, _ in self.rows], dtype=np.float64).reshape(-1, 4)
        self.add_all(boxes, np.array([(size[1], size[0]) for _, size in self.rows], dtype=np.float64).reshape(-1, 2))
        self.rows.clear()

    def add_all(self, boxes: np.ndarray, sides: np.ndarray) -> None:
        """Count how boxes ``(N, 4)`` lie in images of the given width and height ``(N, 2)``, all above 0."""
        ends = boxes[:, :2] + boxes[:, 2:]
        as_corners = (boxes[:, 2:] >= boxes[:, :2]).all(1) & (boxes[:, 2:] <= sides + 1).all(1)
        self.num_boxes += len(boxes)
        self.num_far += int((ends > (1 + OUTSIDE_SHARE) * sides).any(1).sum())
        self.num_as_corners += int(as_corners.sum())
        self.num_above_1 += int((boxes > 1).any(1).sum())
        self.num_fractions += int((boxes % 1 > 0).any(1).sum())

    def check(self, path: Path, findings: Findings) -> None:
        """A fault where the boxes of a file are plainly corners or shares of the photo instead of x, y, width, height.

        Corners: all but a few would lie in their photos as x1, y1, x2, y2, while many reach far out of it as stated.
        """
        self._add_rows()
        if not self.num_boxes:
            return
        far, as_corners = self.num_far / self.num_boxes, self.num_as_corners / self.num_boxes
        if far > OUTSIDE_SHARE and as_corners >= CORNERS_SHARE:
            findings.fault(
                f"wanted boxes as x, y, width, height in {path}, found {self.num_far} of {self.num_boxes} that reach "
                "far out of their photos and that fit as corners x1, y1, x2, y2: write width and height"
            )
        elif not self.num_above_1 and self.num_fractions:
            findings.fault(
                f"wanted boxes in pixels in {path}, found no number above 1 in {self.num_boxes} of them, as in shares "
                "of the photo: multiply them by its sides"
            )


@dataclass
class ObjectReader:
    """Read the objects of a file entry by entry, and remember what they have in common."""

    labels: CategoryLabels
    boxes: StatedBoxes = field(default_factory=StatedBoxes)

    def add(self, rows: ObjectColumns, entry: JsonEntry, size: Size | None, score: float | None) -> Size | None:
        """Append the object of one entry to ``rows`` of its image; the image's size, the mask's where none was known.

        Without a box the mask gives one. Raises `UserError`, and then nothing was appended.
        """
        label = self.labels.label(entry)
        if entry.get("bbox_mode") not in _XYWH_MODES:
            raise entry.refusal("bbox_mode", "1 (x, y, width, height)")
        mask = read_mask(entry, size)
        if mask is not None and size is None:
            size = (int(mask["size"][0]), int(mask["size"][1]))
        stated = entry.get("bbox")
        if stated in (None, []) and mask is not None:
            corners = box_from_rle(mask).tolist()
        else:
            x, y, width, height = read_box(entry)
            corners = [x, y, x + width, y + height]
            self.boxes.add((x, y, width, height), size)
        difficult, crowd = entry.flag("difficult"), entry.flag("iscrowd")
        rows.add(corners, label, mask=mask, score=score, difficult=difficult, crowd=crowd)
        return size


def read_box(entry: JsonEntry) -> list[float]:
    """``bbox`` of an entry as x, y, width, height; raises `UserError` for other values and negative sides."""
    box: Any = entry.get("bbox")
    if type(box) is list and len(box) == 4:
        x, y, width, height = box
        plain = type(x) in _NUMBERS and type(y) in _NUMBERS and type(width) in _NUMBERS and type(height) in _NUMBERS
        if plain and 0 <= x <= LARGEST and 0 <= y <= LARGEST and 0 <= width <= LARGEST and 0 <= height <= LARGEST:
            return box
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise entry.refusal("bbox", "a bbox of four numbers x, y, width, height, each finite,")
    numbers = entry.numbers(box)
    if min(numbers[2:]) < 0:
        raise entry.refusal("bbox", "a width and a height of at least 0")
    return numbers
