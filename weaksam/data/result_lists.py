"""Open a list of results, find its scores under the names that tools give them, and count what is in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weaksam.config import UserError, listed
from weaksam.data.findings import Findings
from weaksam.data.json_entries import JsonEntry, listed_keys, shown
from weaksam.data.text_files import read_json
from weaksam.structures.instances import Instances

WRAPPERS = ("annotations", "results", "detections", "predictions")
"""Keys under which some tools keep their results list."""
SCORE_NAMES = ("score", "confidence", "conf", "scores", "probability", "prob")
"""Keys of an entry's score; the first is COCO's, another is taken where the file has no such key."""


@dataclass(frozen=True)
class ResultList:
    """The entries of a results file, not checked yet, and the other sections of the object that holds them."""

    entries: list[Any]
    sections: dict[str, Any]


def read_result_list(
    path: Path, findings: Findings, wanted: str = "entries with image_id, category_id, bbox and score"
) -> ResultList:
    """The list in ``path``, also where an object holds it under one of `WRAPPERS`; `UserError` for other JSON."""
    content = read_json(path, "a COCO results list")
    if isinstance(content, list):
        return ResultList(content, {})
    lists = [key for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), list)]
    if len(lists) != 1:
        state = f"a JSON dict with {listed_keys(content)}" if isinstance(content, dict) else shown(content)
        raise UserError(f"wanted a COCO results list ({wanted}) in {path}, found {state}: name another file")
    findings.guess(f"the list under {lists[0]!r} was read as the results", str(path))
    return ResultList(content[lists[0]], {key: value for key, value in content.items() if key not in lists})


@dataclass
class ScoreReader:
    """Read the scores of a file's entries from ``key``; `say` notes what is uncommon about them."""

    path: Path
    key: str
    lowest: float = math.inf
    highest: float = -math.inf

    @classmethod
    def of(cls, entries: Sequence[Any], path: Path, findings: Findings) -> ScoreReader:
        """Decide for a file which key holds the scores, see `score_name`."""
        used = {key for entry in entries if isinstance(entry, dict) for key in entry}
        return cls(path, score_name(used, path, findings))

    def read(self, entry: JsonEntry) -> float:
        """The score of one entry, a finite number; raises `UserError` where it has none."""
        score = entry.number(self.key)
        self.lowest, self.highest = min(self.lowest, score), max(self.highest, score)
        return score

    def say(self, findings: Findings) -> None:
        """Note that scores outside 0..1 only rank."""
        if self.lowest <= self.highest:
            say_score_range([self.lowest, self.highest], self.path, findings)


def score_name(names: Collection[str], path: Path, findings: Findings) -> str:
    """Which of ``names``, keys or columns, holds scores: ``score``, also where it is not there, else the only other.

    Raises `UserError` where two others of `SCORE_NAMES` are there.
    """
    used = [name for name in SCORE_NAMES if name in names]
    if "score" in used or not used:
        return "score"
    if len(used) > 1:
        raise UserError(f"wanted one score for each box in {path}, found {listed(used)}: name the right one 'score'")
    findings.guess(f"{used[0]!r} was taken as the score", str(path))
    return used[0]


def say_score_range(scores: Sequence[float], path: Path, findings: Findings) -> None:
    """Note that scores of a file only rank where some lie outside 0..1; no scores give no note."""
    if scores and (min(scores) < 0 or max(scores) > 1):
        text = f"scores outside 0 to 1 ({min(scores):g} to {max(scores):g}) were used as they are, to rank"
        findings.guess(text, str(path))


def count_detections(path: Path, detections: Mapping[str, Instances]) -> str:
    """How many ``detections`` (by image id, of every image) a file holds, and how many repeat another, in one line."""
    num_images = sum(len(of_image) > 0 for of_image in detections.values())
    num = sum(map(len, detections.values()))
    text = f"{path}: {num} detections on {num_images} of {len(detections)} images"
    num_repeats = num - sum(map(num_different, detections.values()))
    return f"{text} ({num_repeats} repeat another)" if num_repeats else text


def num_different(detections: Instances) -> int:
    """How many of the detections or true objects of an image differ in label, score or box."""
    scores = [0.0] * len(detections) if detections.scores is None else detections.scores.tolist()
    return len(set(zip(detections.labels.tolist(), scores, map(tuple, detections.boxes.tolist()), strict=True)))
