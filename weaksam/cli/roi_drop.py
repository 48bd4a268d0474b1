"""Define the command of ``weaksam roi-drop``: plot the error rate of regions over their loss."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from weaksam.terminal import answer


def plot(
    run: Annotated[Path, typer.Argument(help="folder of a run whose pseudo ground truth is finished")],
    at: Annotated[float, typer.Option(help="share of the training after which the detector is looked at")] = 0.3,
    stage: Annotated[
        str, typer.Option(help="retrain, or wsis for the mask term too (wsis must be finished)")
    ] = "retrain",
    out: Annotated[
        Path | None, typer.Option(help="picture (.png, .svg or .pdf), JSON beside it; RUN/roi_drop/STAGE.png")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Draw how often regions of high losses have wrong pseudo boxes, and propose thresholds for RoI drop from it.

    An early detector is trained for it, in RUN/roi_drop; nothing else of the run changes. It reads the true boxes of
    the training photos, so it is a diagnosis: thresholds that are taken from it are no longer chosen by tags alone.
    """
    from weaksam import pipeline
    from weaksam.evaluation.roi_drop_figures import roi_drop_text

    figures, picture = pipeline.plot_roi_drop(run, at, stage, out)  # type: ignore[arg-type]
    if json:
        answer(dumps(figures.as_dict(), indent=1))
    else:
        answer(f"{roi_drop_text(figures)}\n\n{picture}")
