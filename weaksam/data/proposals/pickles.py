"""Read the proposals in pickles of wetectron, mmdet and detectron as half-open boxes and scores per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from weaksam.config import UserError
from weaksam.data.file_errors import reads
from weaksam.data.image_names import Key, first_repeat
from weaksam.data.proposals.files import ProposalsByKey
from weaksam.data.proposals.plain_pickle import read_plain_pickle
from weaksam.structures.boxes import xyxy_from_inclusive, xyxy_from_xywh
from weaksam.structures.proposals import Proposals

Layout = Literal["wetectron", "mmdet", "detectron"]
"""Whose file it is. wetectron: a dictionary of ``boxes``, ``scores`` and ``indexes`` (image numbers). detectron: the
same with ``ids``; detectron2 adds ``bbox_mode`` and says ``objectness_logits``. mmdet: a list in the order of the image
list, per image an array of 4 columns, or 5 with the score, or a tuple of boxes and scores."""
Corners = Literal["auto", "inclusive", "half-open"]
"""Whether x2, y2 name the last pixel inside (the `+1` convention) or the first beyond; ``auto`` goes by the layout."""

INCLUSIVE_LAYOUTS = frozenset({"wetectron", "detectron"})
"""Layouts whose own code computes widths as ``x2 - x1 + 1``."""
_ID_KEYS = ("indexes", "ids")
_SCORE_KEYS = ("scores", "objectness_logits")
MOST_BOXES = 20_000_000
"""Boxes of one file that are read."""
_WANTED = "a proposal pickle of wetectron, mmdet or detectron"


@dataclass(frozen=True)
class ForeignProposals:
    """A pickle's content: proposals by what it calls each image, None where it names none and goes by the list's order.

    ``layout`` and ``inclusive`` are what it was taken for; ``num_dropped`` boxes were no boxes: not finite, inverted or
    without area.
    """

    images: list[tuple[Key | None, Proposals]]
    layout: Layout
    inclusive: bool
    num_dropped: int

    def by_key(self, in_order: Sequence[str], source: str) -> ProposalsByKey:
        """Proposals by key; a file without keys takes those of ``in_order``, of which there must be as many."""
        if all(key is not None for key, _ in self.images):
            return {key: proposals for key, proposals in self.images if key is not None}
        if len(self.images) != len(in_order):
            raise UserError(
                f"wanted the proposals of {len(in_order)} images in {source}, found {len(self.images)}: give the list "
                "that the file was made with, in its order"
            )
        return {key: proposals for key, (_, proposals) in zip(in_order, self.images, strict=True)}


@reads("proposals")
def read_foreign_proposals(path: Path, layout: Layout | None = None, corners: Corners = "auto") -> ForeignProposals:
    """The proposals pickled in ``path``, as half-open boxes in pixels; nothing in the file can run.

    ``layout`` None tells it from the content. Raises `UserError` for another content, or lists of different lengths.
    """
    for word, value, choices in (("corners", corners, get_args(Corners)), ("layout", layout, get_args(Layout))):
        if value is not None and value not in choices:
            raise UserError(f"wanted the {word} to be one of {', '.join(choices)}, found {value!r}: name one of them")
    content = read_plain_pickle(path, _WANTED)
    content_layout = _layout_of(content, path)
    if layout is not None and layout != content_layout:
        raise UserError(
            f"wanted the layout {layout} in {path}, found {content_layout}: leave the layout out or name another"
        )
    keys: Sequence[Key | None]
    if isinstance(content, Mapping):
        keys, boxes, scores = _dictionary(content, path)
    else:
        keys, (boxes, scores) = [None] * len(content), _listed(content)
    modern = isinstance(content, Mapping) and ("objectness_logits" in content or "bbox_mode" in content)
    inclusive = corners == "inclusive" or (corners == "auto" and content_layout in INCLUSIVE_LAYOUTS and not modern)
    xywh = isinstance(content, Mapping) and _is_xywh(content, path)
    images: list[tuple[Key | None, Proposals]] = []
    num_dropped, num_boxes = 0, 0
    for key, image_boxes, image_scores in zip(keys, boxes, scores, strict=True):
        where = f"image {len(images) if key is None else key} of {path}"
        num_boxes += len(image_boxes) if isinstance(image_boxes, (np.ndarray, list, tuple)) else 0
        if num_boxes > MOST_BOXES:
            raise UserError(f"wanted at most {MOST_BOXES:,} boxes in {path}, found more: split the file")
        proposals, num_bad = _proposals(image_boxes, image_scores, inclusive, xywh, where)
        images.append((key, proposals))
        num_dropped += num_bad
    return ForeignProposals(images, content_layout, inclusive, num_dropped)


def _layout_of(content: Any, path: Path) -> Layout:
    """Whose file the content is of; raises `UserError` where it is of none."""
    if isinstance(content, (list, tuple)):
        return "mmdet"
    if isinstance(content, Mapping) and "boxes" in content:
        if "indexes" in content:
            return "wetectron"
        if "ids" in content:
            return "detectron"
    shown = (
        f"a dictionary of {sorted(map(str, content))[:6]}" if isinstance(content, Mapping) else type(content).__name__
    )
    raise UserError(
        f"wanted {_WANTED} (a list of arrays, or a dictionary of boxes, scores and indexes or ids) in {path}, "
        f"found {shown}: convert it first"
    )


def _dictionary(content: Mapping[str, Any], path: Path) -> tuple[list[Key], Sequence[Any], Sequence[Any]]:
    """Keys, boxes and scores of a dictionary, one of each per image; scores are None where there are none."""
    keys = list(next(content[name] for name in _ID_KEYS if name in content))
    boxes = content["boxes"]
    scores = next((content[name] for name in _SCORE_KEYS if name in content), None)
    scores = [None] * len(boxes) if scores is None else scores
    if not len(keys) == len(boxes) == len(scores):
        raise UserError(
            f"wanted one entry per image in {path}, found {len(boxes)} of boxes, {len(scores)} of scores and "
            f"{len(keys)} of ids: the file is broken"
        )
    plain = [key if isinstance(key, str) else _whole(key, path) for key in keys]
    repeated = first_repeat(plain)
    if repeated is not None:
        raise UserError(f"wanted every image once in {path}, found {repeated!r} twice: the file is broken")
    return plain, boxes, scores


def _whole(key: Any, path: Path) -> int:
    """The image number that ``key`` is, also where it was written as a float."""
    if not isinstance(key, (int, float)) or not float(key).is_integer():
        raise UserError(f"wanted a name or a whole number for each image of {path}, found {str(key)[:40]!r}")
    return int(key)


def _is_xywh(content: Mapping[str, Any], path: Path) -> bool:
    """Whether detectron2's ``bbox_mode`` says x, y, width, height."""
    mode = content.get("bbox_mode", 0)
    if mode not in (0, 1):
        raise UserError(f"wanted boxes as xyxy (bbox_mode 0) or xywh (1) in pixels in {path}, found mode {mode!r}")
    return mode == 1


def _listed(content: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Boxes and scores of a list's entries; a tuple of two, the first with rows, is boxes and scores."""
    boxes, scores = [], []
    for entry in content:
        pair = isinstance(entry, (tuple, list)) and len(entry) == 2 and np.ndim(_first_row(entry[0])) > 0
        boxes.append(entry[0] if pair else entry)
        scores.append(entry[1] if pair else None)
    return boxes, scores


def _first_row(value: Any) -> Any:
    """The first row of boxes; an array or an empty list counts as rows itself, a number as none."""
    if isinstance(value, np.ndarray):
        return value if value.ndim > 1 or value.size == 0 else 0
    return (value[0] if value else value) if isinstance(value, (list, tuple)) else 0


def _proposals(boxes: Any, scores: Any, inclusive: bool, xywh: bool, where: str) -> tuple[Proposals, int]:
    """Half-open proposals of one image, and how many of its rows were no boxes."""
    table = _numbers(boxes, where)
    table = table.reshape(0, 4) if table.size == 0 else table
    if table.ndim != 2 or table.shape[1] not in (4, 5):
        raise UserError(f"wanted boxes of 4 columns, or 5 with a score, for {where}, found the shape {table.shape}")
    if scores is None:
        scores = table[:, 4] if table.shape[1] == 5 else np.ones(len(table))
    values = _numbers(scores, where)
    if values.size != len(table) or values.shape[:1] != (len(table),):
        raise UserError(f"wanted a score per box for {where}, found {values.size} numbers for {len(table)} boxes")
    values = values.reshape(-1)
    corners = torch.from_numpy(table[:, :4])
    corners = xyxy_from_xywh(corners) if xywh else corners
    corners = xyxy_from_inclusive(corners) if inclusive else corners
    score = torch.from_numpy(values)
    good = torch.isfinite(corners).all(1) & (corners[:, 2:] > corners[:, :2]).all(1) & torch.isfinite(score)
    return Proposals.of(corners[good], score[good]), int((~good).sum())


def _is_nested(row: Any) -> bool:
    """Whether a row of a table is long or holds lists: shared ones may unfold to more than fits into memory."""
    return isinstance(row, (list, tuple)) and (len(row) > 64 or any(isinstance(item, (list, tuple)) for item in row))


def _numbers(value: Any, where: str) -> np.ndarray:
    """The value as float64, so that uint16 cannot overflow."""
    if isinstance(value, (list, tuple)) and any(map(_is_nested, value)):
        raise UserError(f"wanted a table of numbers for {where}, found lists nested deeper: the file is broken")
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"wanted a table of numbers for {where}, found something else: the file is broken") from None
