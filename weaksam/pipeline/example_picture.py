"""Draw one training photo after every stage, so that a run can be looked at while it goes on."""

from __future__ import annotations

from weaksam.pipeline.outcome import pictured
from weaksam.pipeline.state import Run
from weaksam.report.photo_sheet import draw_photo
from weaksam.report.sheets import write_picture
from weaksam.terminal import say

EXAMPLE = "example.png"
"""The picture's name in the folder of a run."""


def draw_example(run: Run) -> None:
    """Draw what the stages so far made of the first training photo with most tags, and name the first picture.

    ``OUT/example.png`` is written anew. Nothing is drawn where the stages made nothing of that photo that can be.
    """
    path = run.context.out / EXAMPLE
    is_first = not path.exists()
    photo = max(run.context.train, key=lambda sample: len(sample.tags))
    if run.results.keys() & {"clues", "proposals"}:
        write_picture(path, draw_photo(pictured(run), photo.image_id)[1])
        if is_first:
            say(f"first picture: {path} (drawn again after each stage)", style="bold")
