"""Find the photo that each row of a tag file means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from weaksam.data.findings import Findings
from weaksam.data.formats.tag_rows import TagRows
from weaksam.data.image_names import ImageNames
from weaksam.data.name_matching import MatchedNames, match_names
from weaksam.data.text_files import quoted

_ELSEWHERE = re.compile(r"[A-Za-z]:[\\/]|[\\/]|[a-z0-9]+://")
"""How a name begins that says where a photo lay on another machine: a drive, a root, an address."""


def match_rows(tags: TagRows, photo_names: ImageNames, source: Path, findings: Findings) -> MatchedNames:
    """The image id that each row means by its name, see `match_names`.

    ``findings`` count whole paths and addresses, and name rows that mean the photo of another row.
    """
    matched = match_names(tags.rows, photo_names, source, findings)
    in_order = {row: matched.photo_of[row] for row in tags.rows if row in matched.photo_of}
    _say_what_was_matched(in_order, source, findings)
    return matched


def _say_what_was_matched(photo_of: Mapping[str, str], source: Path, findings: Findings) -> None:
    """Count rows that come from another machine, and note those that mean the photo of another row."""
    moved = [row for row in photo_of if _ELSEWHERE.match(row)]
    if moved:
        example = f"{quoted(moved[0])} is {photo_of[moved[0]]}"
        findings.count(f"{source}: {len(moved)} whole paths or addresses were matched by their last parts ({example})")
    first: dict[str, str] = {}
    for row, image_id in photo_of.items():
        if first.setdefault(image_id, row) != row:
            other = quoted(first[image_id])
            findings.guess(f"was joined with {other}, another row of {image_id}", f"{source}, {quoted(row)}")
