"""Find the photo that each row of a tag file means."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.formats.tag_rows import TagRows
from weaksam.data.image_names import ImageNames, file_part
from weaksam.data.text_files import quoted

_ELSEWHERE = re.compile(r"[A-Za-z]:[\\/]|[\\/]|[a-z0-9]+://")
"""How a name begins that says where a photo lay on another machine: a drive, a root, an address."""


def match_rows(tags: TagRows, photo_names: ImageNames, source: Path, findings: Findings) -> dict[str, str | None]:
    """The image id that each row means by its name, None where no photo fits; ambiguous rows are a fault.

    A whole path or an address of which the folders are not those here is matched by its last part where that is unique
    on both sides. ``findings`` counts these, and names rows that mean the photo of another row.
    """
    matched: dict[str, str | None] = {}
    for row in tags.rows:
        try:
            matched[row] = photo_names.find_name(row, str(source))
        except UserError as error:
            findings.fault(str(error))
    _match_last_parts(matched, photo_names, source, findings)
    moved = [row for row, image_id in matched.items() if image_id is not None and _ELSEWHERE.match(row)]
    if moved:
        example = f"{quoted(moved[0])} is {matched[moved[0]]}"
        findings.count(f"{source}: {len(moved)} whole paths or addresses were matched by their last parts ({example})")
    first: dict[str, str] = {}
    for row, image_id in matched.items():
        if image_id is not None and first.setdefault(image_id, row) != row:
            other = quoted(first[image_id])
            findings.guess(f"was joined with {other}, another row of {image_id}", f"{source}, {quoted(row)}")
    return matched


def _match_last_parts(
    matched: dict[str, str | None], photo_names: ImageNames, source: Path, findings: Findings
) -> None:
    """Match the rows without a photo by their file names alone, where these are unique on both sides.

    What `ImageNames.find_name` takes off a name is a guess, so a photo that another row has is not taken.
    """
    num_rows = Counter(PurePosixPath(file_part(row)).name for row in matched)
    taken = set(matched.values())
    for row in [row for row, image_id in matched.items() if image_id is None]:
        guessed = Findings()
        try:
            image_id = photo_names.find_name(row, str(source), guessed)
        except UserError:  # several photos of this name
            continue
        if image_id not in taken and num_rows[PurePosixPath(file_part(row)).name] == 1:
            matched[row] = image_id
            taken.add(image_id)
            for text, places in guessed.guesses.items():
                findings.guesses[text] += places
