"""Draw the pipeline of a run: a box per stage with what it made, how good that is and how long it took."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

_WIDTH, _GAP, _LINE, _PAD = 250, 44, 17, 14
_CHARACTERS = 33
"""Characters in a line of a box."""
TITLES = {
    "clues": "Clues",
    "proposals": "Proposals",
    "wsod": "Weak detector",
    "pseudo_gt": "Pseudo ground truth",
    "retrain": "Retrained detector",
    "wsis": "Instance segmenter",
}


def pipeline_picture(stages: Sequence[Mapping[str, Any]], columns: int) -> Markup:
    """The stages of ``metrics.json`` as SVG, ``columns`` boxes in a row, joined by arrows; empty without a stage.

    A stage that the run did not reach has a box with a dashed border that says so.
    """
    row_of = {str(row["stage"]): row for row in stages}
    if not row_of:
        return Markup("")
    texts = [_texts(name, row_of.get(name)) for name in TITLES]
    height = 2 * _PAD + 22 + _LINE * max(len(lines) for _, lines in texts)
    rows = -(-len(texts) // columns)
    width = columns * _WIDTH + (columns - 1) * _GAP
    marks = []
    for number, (name, (title, lines)) in enumerate(zip(TITLES, texts, strict=True)):
        x, y = number % columns * (_WIDTH + _GAP), number // columns * (height + _GAP)
        marks.append(_box(x, y, height, title, lines, name in row_of))
        if number + 1 < len(texts):
            marks.append(_arrow(x, y, height, number % columns + 1 == columns, columns))
    said = "; ".join(f"{title}: {', '.join(lines)}" for title, lines in texts)
    whole = (width + 4, rows * height + (rows - 1) * _GAP + 4)
    return Markup('<svg class="pipeline" role="img" aria-label="{}" viewBox="-2 -2 {} {}">{}</svg>').format(
        f"The stages of the run. {said}", *whole, Markup("").join(marks)
    )


def _texts(name: str, row: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    """The title and the lines of a stage's box."""
    if row is None:
        return TITLES[name], ["not run"]
    lines = [line for text in (row["made"], row["quality"]) for line in textwrap.wrap(str(text), _CHARACTERS)]
    return TITLES[name], [*lines, f"{row['seconds']:.0f} s"]


def _box(x: int, y: int, height: int, title: str, lines: Sequence[str], has_run: bool) -> Markup:
    frame = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="10"/>').format(
        "stage" if has_run else "stage unmade", x, y, _WIDTH, height
    )
    head = Markup('<text class="head" x="{}" y="{}">{}</text>').format(x + _PAD, y + _PAD + 12, title)
    body = [
        Markup('<text x="{}" y="{}">{}</text>').format(x + _PAD, y + _PAD + 34 + _LINE * number, line)
        for number, line in enumerate(lines)
    ]
    return Markup("").join([frame, head, *body])


def _arrow(x: int, y: int, height: int, ends_row: bool, columns: int) -> Markup:
    """An arrow to the right, or from the end of a row down to the start of the next."""
    if not ends_row:
        start, middle = x + _WIDTH + 4, y + height / 2
        end = start + _GAP - 10
        path, head = f"M{start} {middle}H{end}", f"M{end - 7} {middle - 5}L{end} {middle}L{end - 7} {middle + 5}"
    else:
        start, below, first = x + _WIDTH / 2, y + height + 4, _WIDTH / 2
        half, end = y + height + _GAP / 2, y + height + _GAP - 5
        path = f"M{start} {below}V{half}H{first}V{end}" if columns > 1 else f"M{first} {below}V{end}"
        head = f"M{first - 5} {end - 7}L{first} {end}L{first + 5} {end - 7}"
    return Markup('<path class="arrow" d="{} {}"/>').format(path, head)
