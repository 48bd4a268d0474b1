"""Draw what a run made of one photo."""

from __future__ import annotations

from pathlib import Path

from weaksam.pipeline.pictured import pictured
from weaksam.pipeline.plan import STAGES
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.state import open_run
from weaksam.report.photo_sheet import draw_photo
from weaksam.report.sheets import write_picture


def show_photo(out: Path, name: str, picture: Path, columns: int = 3) -> str:
    """Draw what the finished stages of the run in ``out`` made of one photo, and say what was written.

    Raises `UserError` where there is no run, no such photo or nothing to draw, and for a picture of another ending.
    """
    run = open_run(recorded_settings(out))
    for stage in STAGES:
        if run.finished(stage.name):
            stage.run(run)
    split, sheet = draw_photo(pictured(run), name, columns)
    write_picture(picture, sheet)
    return f"{picture}: {name} ({split})"
