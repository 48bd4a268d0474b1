"""Define ``weaksam suggest``: the photos whose true boxes would help most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weaksam.terminal import answer


def suggest(
    out: Annotated[Path, typer.Argument(help="folder of a run with pseudo labels")],
    num: Annotated[int, typer.Argument(min=1, help="photos to suggest")] = 20,
    file: Annotated[
        Path | None, typer.Option(help="JSON to write, with the doubted boxes; by default OUT/suggestions.json")
    ] = None,
) -> None:
    """Name the training photos on which true boxes would help most: doubted, and unlike each other.

    Doubt is that of the report: a tag without a believed box, or a box that the tags or a second detector do not
    confirm. Draw the boxes with any tool and give them as data.train.labels; or judge the boxes in the report.
    """
    from weaksam import pipeline

    for line in pipeline.suggest(out, num, file):
        answer(line)
