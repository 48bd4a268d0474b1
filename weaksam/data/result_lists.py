"""Open a COCO results list, and find the score of its entries under the names that tools give it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weaksam.config import UserError, listed
from weaksam.data.findings import Findings
from weaksam.data.json_entries import JsonEntry, listed_keys, shown
from weaksam.data.text_files import read_json

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
        """Decide for a file which key holds the scores: ``score``, else the only other one of `SCORE_NAMES`.

        Raises `UserError` where two others are there.
        """
        used = {key for entry in entries if isinstance(entry, dict) for key in entry}
        names = [name for name in SCORE_NAMES if name in used]
        if "score" in names or not names:
            return cls(path, "score")
        if len(names) > 1:
            raise UserError(
                f"wanted a score in every entry of {path}, found {listed(names)}: name the right one 'score'"
            )
        findings.guess(f"{names[0]!r} was taken as the score", str(path))
        return cls(path, names[0])

    def read(self, entry: JsonEntry) -> float:
        """The score of one entry, a finite number; raises `UserError` where it has none."""
        score = entry.number(self.key)
        self.lowest, self.highest = min(self.lowest, score), max(self.highest, score)
        return score

    def say(self, findings: Findings) -> None:
        """Note that scores outside 0..1 only rank."""
        if self.lowest < 0 or self.highest > 1:
            text = f"scores outside 0 to 1 ({self.lowest:g} to {self.highest:g}) were used as they are, to rank"
            findings.guess(text, str(self.path))
