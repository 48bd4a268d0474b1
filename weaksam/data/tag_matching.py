"""Find the photo that each row of a tag file means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.formats.tag_rows import TagRows
from weaksam.data.image_names import ImageNames, file_part, last_part, may_be_respelt
from weaksam.data.text_files import quoted

_ELSEWHERE = re.compile(r"[A-Za-z]:[\\/]|[\\/]|[a-z0-9]+://")
"""How a name begins that says where a photo lay on another machine: a drive, a root, an address."""


@dataclass(frozen=True)
class MatchedRows:
    """The image id by row, of the rows that have a photo; the rows without one; and those that may mean several."""

    photo_of: Mapping[str, str]
    without_photo: Sequence[str]
    ambiguous: frozenset[str]


def match_rows(tags: TagRows, photo_names: ImageNames, source: Path, findings: Findings) -> MatchedRows:
    """The image id that each row means by its name; ambiguous rows are a fault.

    A whole path or an address of which the folders are not those here is matched by its last part where that is unique
    on both sides. ``findings`` counts these, and names rows that mean the photo of another row.
    """
    photo_of: dict[str, str] = {}
    lost: list[str] = []
    ambiguous: set[str] = set()
    for row in tags.rows:
        try:
            image_id = photo_names.find_name(row, str(source))
        except UserError as error:
            findings.fault(str(error))
            ambiguous.add(row)
            continue
        if image_id is None:
            lost.append(row)
        else:
            photo_of[row] = image_id
    matched = MatchedRows(photo_of, lost, frozenset(ambiguous))
    by_last_part = dict(_match_last_parts(tags, matched, photo_names, source, findings))
    if by_last_part:
        photo_of |= by_last_part
        matched = MatchedRows(photo_of, [row for row in lost if row not in by_last_part], matched.ambiguous)
    in_order = {row: photo_of[row] for row in tags.rows if row in photo_of}
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


def _match_last_parts(
    tags: TagRows, matched: MatchedRows, photo_names: ImageNames, source: Path, findings: Findings
) -> Iterator[tuple[str, str]]:
    """Rows without a photo, with the one of their file name, where that is unique on both sides.

    What `ImageNames.find_name` takes off a name is a guess, so a photo that another row has is not taken.
    """
    fits: list[tuple[str, str, Findings]] = []
    for row in filter(may_be_respelt, matched.without_photo):
        guessed = Findings()
        try:
            image_id = photo_names.find_name(row, str(source), guessed)
        except UserError:  # several photos of this name
            continue
        if image_id is not None:
            fits.append((row, image_id, guessed))
    if not fits:
        return
    rows = (row for row in tags.rows if row not in matched.ambiguous)
    num_rows = Counter(last_part(file_part(row)) for row in rows)
    taken = set(matched.photo_of.values())
    for row, image_id, guessed in fits:
        if image_id not in taken and num_rows[last_part(file_part(row))] == 1:
            taken.add(image_id)
            for text, places in guessed.guesses.items():
                findings.guesses[text] += places
            yield row, image_id
