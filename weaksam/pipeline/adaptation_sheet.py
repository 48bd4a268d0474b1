"""Draw what an adaptation changed: masks of some test photos before, after, and true."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from weaksam.recipes.sam_adaptation import AdaptSettings
from weaksam.recipes.sam_adaptation.comparing import ComparedPhoto, compared
from weaksam.report.pictures import Canvas, colour_of
from weaksam.report.sheets import arranged, write_picture
from weaksam.structures.masks import rle_from_mask

SHEET = "compared.png"
SIDE = 320
"""Longer side of each drawing, pixels."""


def write_sheet(settings: AdaptSettings, lora: Path) -> Path | None:
    """Write OUT/compared.png, a row of three drawings for each photo; None, and nothing, where there is none."""
    photos = compared(settings, lora, settings.pictures)
    if not photos:
        return None
    pictures = []
    for photo in photos:
        for words, masks in _drawings(photo):
            rles = [rle_from_mask(mask) for mask in masks]
            drawing = Canvas(photo.image, SIDE).masks(rles, range(len(rles)))
            square = drawing.photo.crop((0, 0, SIDE, SIDE))  # sheets hold pictures of one size
            pictures.append(([(words, colour_of(1))], square))
    path = settings.out / SHEET
    write_picture(path, arranged(pictures, 3))
    return path


def _drawings(photo: ComparedPhoto) -> list[tuple[str, Tensor]]:
    name = Path(photo.image_id).name
    return [
        (f"before: IoU {photo.iou_before:.3f}", photo.before),
        (f"after: IoU {photo.iou_after:.3f}", photo.after),
        (f"true: {name[:28]}", photo.truth),
    ]
