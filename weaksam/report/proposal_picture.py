"""Draw one photo's proposals by what prompted them: a panel per source, masks tinted and boxes outlined."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.images import LIMITS, read_image
from weaksam.data.photo_limits import PhotoLimits
from weaksam.data.photos import list_photos
from weaksam.data.proposals.exchange import photo_ids
from weaksam.data.proposals.files import find_proposals, open_store
from weaksam.report.pictures import COLOURS, Canvas
from weaksam.store.files import atomic_file
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
_GAP, _HEAD = 8, 26


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
    return _arranged(pictures, columns)


def _arranged(pictures: Sequence[tuple[list[tuple[str, str]], Image.Image]], columns: int) -> Image.Image:
    """One sheet of the pictures, all of one size, row by row on white, each under its coloured words."""
    columns = min(columns, len(pictures))
    width, height = pictures[0][1].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new(
        "RGB", (columns * (width + _GAP) + _GAP, rows * (height + _HEAD + _GAP) + _GAP // 2), color="#ffffff"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for index, (words, picture) in enumerate(pictures):
        x = _GAP + index % columns * (width + _GAP)
        y = index // columns * (height + _HEAD + _GAP)
        sheet.paste(picture, (x, y + _HEAD))
        draw.rectangle((x - 1, y + _HEAD - 1, x + width, y + _HEAD + height), outline="#c0c0c0")
        for word, colour in words:
            draw.text((x, y + 4), word, fill=colour, font=font)
            x += int(draw.textlength(word, font=font)) + 12
    return sheet


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture as its name's ending says (.png or .jpg), whole or not at all."""
    picture_format = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if picture_format is None:
        raise UserError(f"wanted a picture named .png or .jpg, found {path}: rename it")
    options = {"quality": 85, "optimize": True} if picture_format == "JPEG" else {}
    buffer = io.BytesIO()
    picture.save(buffer, format=picture_format, **options)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


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
