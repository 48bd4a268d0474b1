"""Define ``weaksam review``: what a reviewer decided in a run's report, taken into its next training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def apply(
    out: Annotated[Path, typer.Argument(help="folder of the run whose report was reviewed")],
    decisions: Annotated[Path, typer.Argument(help="decisions.json, downloaded from its report")],
    until: Annotated[
        str | None, typer.Option(help="last stage to train again; by default the last one that was finished")
    ] = None,
) -> None:
    """Train again with the decisions of a review: believed boxes, and places where a class certainly is not.

    Stages before the pseudo labels are kept. Run without the setting pseudo_gt.review to have the labels as they were.
    """
    from weaksam import pipeline

    pipeline.apply_review(out, decisions, until)
