"""Check the boxes, scores, labels and masks in a row of a store, which somebody else may have written or changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.structures.masks import rle_problem

_TOLERANCE = 1e-6
"""Scores in [0, 1] may leave it by this: rounding."""


def check_row(row: Mapping[str, Any], folder: Path, *, limited: bool) -> None:
    """Raise `UserError`, naming ``folder`` and the image of ``row``, for values that no stage writes.

    Boxes must be finite and not inverted, there must be one score, label, source and mask of each, and masks must be
    sound; with ``limited`` scores must lie in [0, 1], else be finite. Columns that the row lacks are not looked at.
    """
    problem = (
        _box_problem(row["boxes"])
        or _length_problem(row)
        or _score_problem(row["scores"], limited)
        or _label_problem(row)
        or _mask_problem(row)
    )
    if problem:
        raise UserError(
            f"wanted sound boxes of {row['image_id']} in the store {folder}, found {problem}: make the store again"
        )


def _box_problem(boxes: Tensor) -> str | None:
    wrong = ~torch.isfinite(boxes).all(1)
    kind = "no finite numbers"
    if not bool(wrong.any()):
        wrong, kind = (boxes[:, 2:] < boxes[:, :2]).any(1), "corners the wrong way round"
    if not bool(wrong.any()):
        return None
    first = ", ".join(f"{value:g}" for value in boxes[wrong][0].tolist())
    return f"{int(wrong.sum())} boxes of {len(boxes)} with {kind} (first: {first})"


def _length_problem(row: Mapping[str, Any]) -> str | None:
    num = len(row["boxes"])
    for name in ("scores", "labels", "sources", "rles"):
        may_lack = name == "rles" and "mask_size" in row  # proposals may have no masks at all
        if name in row and len(row[name]) != num and not (may_lack and len(row[name]) == 0):
            return f"{len(row[name])} {name} beside {num} boxes"
    return None


def _score_problem(scores: Tensor, limited: bool) -> str | None:
    sound = torch.isfinite(scores)
    if limited:
        sound &= (scores >= -_TOLERANCE) & (scores <= 1 + _TOLERANCE)
    if bool(sound.all()):
        return None
    return f"a score of {float(scores[~sound][0]):g}" + (", not in 0 to 1" if limited else "")


def _label_problem(row: Mapping[str, Any]) -> str | None:
    if "labels" in row and len(row["labels"]) and int(row["labels"].min()) < 0:
        return f"the label {int(row['labels'].min())}"
    return None


def _mask_problem(row: Mapping[str, Any]) -> str | None:
    rles = row.get("rles", ())
    frame = row["mask_size"].tolist() if "mask_size" in row else None
    if frame is not None and (len(frame) not in (0, 2) or (rles and (len(frame) == 0 or min(frame) < 1))):
        return f"a mask_size of {frame}"
    for rle in rles:
        problem = rle_problem(rle)
        if problem is None and frame and list(rle["size"]) != frame:
            problem = f"a mask of {rle['size']} where mask_size is {frame}"
        if problem:
            return problem
    return None
