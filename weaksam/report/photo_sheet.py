"""Draw all that the stages of a run made of one photo on one sheet."""

from __future__ import annotations

from PIL import Image

from weaksam.config import UserError
from weaksam.data.image_names import ImageNames
from weaksam.report.gallery import StageResults, clue_drawings, detection_drawings, train_drawings
from weaksam.report.sheets import arranged

SIDE = 480
"""Longer side of each drawing, pixels."""


def draw_photo(results: StageResults, name: str, columns: int = 3) -> tuple[str, Image.Image]:
    """The split of a photo and a sheet of its drawings: class maps, peaks, proposals, pseudo boxes, masks, detections.

    ``name`` is its image id or a part that means it alone, such as the file's name; training photos come first.

    Raises:
        UserError: no photo has that name, or no stage has made anything of it that can be drawn.
    """
    for split, dataset in (("train", results.train), ("test", results.test)):
        image_id = None if dataset is None else ImageNames.of(dataset).find_name(name, "the command")
        if dataset is None or image_id is None:
            continue
        sample = dataset.by_id[image_id]
        drawings = detection_drawings(results, sample, SIDE) if split == "test" else []
        if split == "train":
            drawings = clue_drawings(results, sample, SIDE) + train_drawings(results, sample, SIDE)
        if not drawings:
            raise UserError(f"wanted something to draw on {image_id} ({split}), found no finished stage: run it first")
        pictures = [([(caption, "#202020")], canvas.photo) for caption, canvas in drawings]
        return split, arranged(pictures, columns)
    raise UserError(f"wanted a photo of the run, found none called {name!r}: give its name below the photos' folder")
