"""Read the decisions that a reviewer made on pseudo labels in a run's report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from weaksam.config import UserError, fingerprint_of, listed
from weaksam.data.file_errors import reads
from weaksam.data.json_entries import LARGEST
from weaksam.json_text import parse_json_text
from weaksam.regular_files import read_regular

FORMAT, VERSION = "weaksam-review", 1
Verdict = Literal["accept", "reject", "relabel", "redraw"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_MOST_BYTES = 1 << 28
"""No file of decisions is larger: half a million of them."""
_REMEDY = "download the decisions from the run's report again"


@dataclass(frozen=True)
class Decision:
    """One decision on box ``row`` of a photo's pseudo ground truth, which was ``box`` (xyxy pixels) of ``label``.

    ``to_label``: its class after the review. ``to_box``: where it is after the review, where it was redrawn.
    """

    image_id: str
    row: int
    box: tuple[float, float, float, float]
    label: str
    verdict: Verdict
    to_label: str
    to_box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Decisions:
    """The decisions of one file, with the hash ``labels_key`` of the pseudo ground truth that they are about."""

    labels_key: str
    rows: tuple[Decision, ...]
    path: Path

    @property
    def fingerprint(self) -> str:
        """Hash of all that affects a training: the decisions, whatever their order; the file's place has no part."""
        rows = sorted(
            [row.image_id, row.row, list(row.box), row.label, row.verdict, row.to_label, list(row.to_box)]
            for row in self.rows
        )
        return fingerprint_of(rows)


@reads("decisions")
def read_decisions(path: Path) -> Decisions:
    """The decisions in the JSON file ``path``, one for each box.

    Raises `UserError`, one sentence, for a file that cannot be read or is of another kind or version, for a decision
    that lacks something or cannot be meant, and for two on one box. No decision is allowed.
    """
    try:
        content = parse_json_text(read_regular(path, _MOST_BYTES))
    except ValueError as error:
        raise UserError(f"wanted the decisions of a review as JSON in {path}, found {error}: {_REMEDY}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"wanted decisions of a review ({FORMAT}) in {path}, found another file: {_REMEDY}")
    if content.get("version") != VERSION:
        raise UserError(
            f"wanted decisions of version {VERSION} in {path}, found version {_shown(content.get('version'))}: take "
            "the weaksam that wrote that report, or review in a report of this one"
        )
    run, rows = content.get("run"), content.get("decisions")
    key = run.get("pseudo_gt") if isinstance(run, dict) else None
    if not isinstance(key, str) or not isinstance(rows, list):
        raise UserError(f"wanted 'run' and a list of 'decisions' in {path}, found them missing or damaged: {_REMEDY}")
    decisions = tuple(_decision(row, number, path) for number, row in enumerate(rows, 1))
    places = [(decision.image_id, decision.row) for decision in decisions]
    if len(set(places)) < len(places):
        image_id, row = next(place for place in places if places.count(place) > 1)
        raise UserError(
            f"wanted one decision on each box in {path}, found several on box {row} of {image_id}: {_REMEDY}"
        )
    return Decisions(key, decisions, path)


def _decision(row: Any, number: int, path: Path) -> Decision:
    """One entry of the list; `UserError` for what cannot be meant."""
    where = f"decision {number} of {path}"
    if not isinstance(row, dict):
        raise UserError(f"wanted an object as {where}, found {_shown(row)}: {_REMEDY}")
    verdict, at, image_id = row.get("decision"), row.get("row"), row.get("image_id")
    if verdict not in VERDICTS:
        raise UserError(f"wanted {listed(VERDICTS)} as 'decision' of {where}, found {_shown(verdict)}: {_REMEDY}")
    if type(at) is not int or at < 0:
        raise UserError(f"wanted the number of a box as 'row' of {where}, found {_shown(at)}: {_REMEDY}")
    if not isinstance(image_id, str) or not image_id:
        raise UserError(f"wanted the name of a photo as 'image_id' of {where}, found {_shown(image_id)}: {_REMEDY}")
    box, label = _box(row, "box", where), _text(row, "label", where)
    to_label = _text(row, "to_label", where) if verdict == "relabel" or row.get("to_label") is not None else label
    to_box = _box(row, "to_box", where) if verdict == "redraw" else box
    return Decision(image_id, at, box, label, verdict, to_label, to_box)


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(row.get(key), str) or not row[key]:
        raise UserError(f"wanted the name of a class as {key!r} of {where}, found {_shown(row.get(key))}: {_REMEDY}")
    return str(row[key])


def _box(row: Mapping[str, Any], key: str, where: str) -> tuple[float, float, float, float]:
    value = row.get(key)
    if not _is_box(value):
        raise UserError(
            f"wanted four corners with x1 <= x2 and y1 <= y2 as {key!r} of {where}, found {_shown(value)}: {_REMEDY}"
        )
    x1, y1, x2, y2 = map(float, value)
    return x1, y1, x2, y2


def _is_box(value: Any) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
        return False
    if not all(type(side) in (int, float) and math.isfinite(side) and abs(side) <= LARGEST for side in value):
        return False
    return bool(value[0] <= value[2] and value[1] <= value[3])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."
