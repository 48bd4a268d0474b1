"""Draw one photo's proposals by what prompted them: a panel per source, masks tinted and boxes outlined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from weaksam.data.images import LIMITS, read_image
from weaksam.data.photo_limits import PhotoLimits
from weaksam.data.photos import list_photos
from weaksam.data.proposals.exchange import photo_ids
from weaksam.data.proposals.files import find_proposals, open_store
from weaksam.report.pictures import COLOURS, Canvas
from weaksam.report.sheets import arranged, write_picture
from weaksam.structures.boxes import area, nms
from weaksam.structures.clue_points import SOURCES
from weaksam.structures.mask_resizing import full_masks
from weaksam.structures.masks import Rle, mask_from_rle, rle_area, rle_from_mask
from weaksam.structures.proposals import IMPORTED, Proposals

PANEL_SIDE = 400
"""Long side of a panel, pixels."""
DRAWN_NMS_IOU = 0.8
"""A box that overlaps a better one of its panel by more is counted but not drawn."""
FILLED = 0.4
"""A mask of a larger share of the photo is outlined only, so that it does not hide what lies in it."""
JOINED = ("coarse", "fine")
"""Kinds of clue points that prompt jointly."""


@dataclass(frozen=True)
class Panel:
    """One panel: its ``name``, the number of all its proposals, and the ``rows (K,)`` of those that are drawn."""

    name: str
    num_all: int
    rows: Tensor

    @property
    def title(self) -> str:
        """Its heading."""
        shown = f", {len(self.rows)} drawn" if len(self.rows) < self.num_all else ""
        return f"{self.name}: {self.num_all}{shown}"


def panel_name(source: int) -> str:
    """The heading of a source in a word or two; all joint prompts share a panel."""
    if source == IMPORTED:
        return "imported"
    name = SOURCES[source] if 0 <= source < len(SOURCES) else f"source {source}"
    return "joint" if name.endswith("joint") else name


def panels_of(proposals: Proposals, max_boxes: int) -> list[Panel]:
    """A panel for every kind of source that ``proposals`` have, by number.

    Drawn are its best-scored proposals, at most ``max_boxes``, without those that nearly repeat a better one.
    """
    panels = []
    for name in dict.fromkeys(map(panel_name, proposals.sources.unique().tolist())):
        in_panel = torch.tensor([panel_name(source) == name for source in proposals.sources.tolist()])
        rows = in_panel.nonzero()[:, 0]
        best = nms(proposals.boxes[rows], proposals.scores[rows], DRAWN_NMS_IOU)[:max_boxes]
        panels.append(Panel(name, len(rows), rows[best]))
    return panels


def draw_panel(image: np.ndarray, proposals: Proposals, rows: Tensor) -> Canvas:
    """The photo, uint8 ``(H, W, 3)``, with the proposals ``rows``: the largest first, so that small ones lie on top."""
    rows = rows[area(proposals.boxes[rows]).argsort(descending=True, stable=True)]
    colours = [index % len(COLOURS) for index in range(len(rows))]
    canvas = Canvas(image, PANEL_SIDE)
    if proposals.rles:
        drawn = list(zip((proposals.rles[row] for row in rows.tolist()), colours, strict=True))
        filled = [(rle, colour) for rle, colour in drawn if rle_area([rle]).item() <= FILLED * math.prod(rle["size"])]
        size = (canvas.photo.height, canvas.photo.width)
        canvas.masks([rle for rle, _ in filled], [colour for _, colour in filled], opacity=0.4)
        canvas.masks([outline(rle, size) for rle, _ in drawn], colours, opacity=0.9)
    return canvas.boxes(proposals.boxes[rows], colours, width=1)


def outline(rle: Rle, size: tuple[int, int]) -> Rle:
    """The border, two pixels wide, of a mask in a picture of ``size`` (H, W)."""
    mask = full_masks(mask_from_rle(rle)[None], size)[0]
    return rle_from_mask(mask & ~torch.from_numpy(ndimage.binary_erosion(mask.numpy(), iterations=2, border_value=1)))


def draw_proposals(
    image: np.ndarray,
    proposals: Proposals,
    *,
    max_boxes: int = 25,
    points: Mapping[str, Tensor] | None = None,
    columns: int = 3,
) -> Image.Image:
    """One picture of a photo, uint8 ``(H, W, 3)``, and its proposals by source.

    The first panel is the photo with the clue ``points``, xy ``(P, 2)`` in photo pixels by the name of their kind,
    where given; the panel of a kind shows its own again. A photo without proposals gives the first panel alone.
    """
    clues = points or {}

    def with_points(canvas: Canvas, *names: str) -> Image.Image:
        for index, (name, kind_points) in enumerate(clues.items()):
            if name in names:
                canvas.points(kind_points, [index] * len(kind_points))
        return canvas.photo

    named = [(f"{name} {len(kind_points)}", COLOURS[index]) for index, (name, kind_points) in enumerate(clues.items())]
    legend = [("the photo" if not clues else "clue points:", "#202020"), *named]
    pictures = [(legend, with_points(Canvas(image, PANEL_SIDE), *clues))]
    for panel in panels_of(proposals, max_boxes):
        kinds = JOINED if panel.name == "joint" else (panel.name,)
        pictures.append(([(panel.title, "#202020")], with_points(draw_panel(image, proposals, panel.rows), *kinds)))
    return arranged(pictures, columns)


def draw_stored(
    folder: Path, photos: Path, image: str, out: Path, max_boxes: int = 25, limits: PhotoLimits = LIMITS
) -> str:
    """Draw the proposals of one photo of the store in ``folder``; ``image`` may lack ending and folders.

    Returns a sentence that says what was written; raises `UserError`, also for a photo over ``limits``.
    """
    store = open_store(folder)
    image_id, proposals = find_proposals(store, image)
    path = list_photos(photos)[photo_ids([image_id], photos)[image_id]]
    write_picture(out, draw_proposals(read_image(path, limits), proposals, max_boxes=max_boxes))
    by_source = ", ".join(f"{panel.name} {panel.num_all}" for panel in panels_of(proposals, max_boxes)) or "none"
    return f"{out}: the proposals of {image_id} by source ({by_source})"
