"""Define the commands of ``weaksam boxes``: import other tools' proposals, export ours, and draw them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from weaksam.terminal import answer

ImageList = Annotated[
    Path | None, typer.Option("--list", help="the images the file was made for, in order: a name a line, or COCO JSON")
]


def import_boxes(
    source: Annotated[Path, typer.Argument(help="pickle of wetectron, mmdet or detectron, COCO results, flat table")],
    out: Annotated[Path, typer.Option(help="folder of the store to write")],
    image_list: ImageList = None,
    images: Annotated[Path | None, typer.Option(help="folder of the photos")] = None,
    layout: Annotated[str | None, typer.Option(help="wetectron, mmdet or detectron; recognised from the file")] = None,
    corners: Annotated[
        str, typer.Option(help="x2, y2 there are the last pixel (inclusive), the first beyond (half-open), or auto")
    ] = "auto",
) -> None:
    """Write another tool's proposals as a sealed store; a pickle is read without running anything in it."""
    from weaksam.data.proposals.exchange import import_proposals

    choices: dict[str, Any] = {"layout": layout, "corners": corners}
    answer(str(import_proposals(source, out, image_list=image_list, photos=images, **choices)))


def export_boxes(
    source: Annotated[Path, typer.Argument(help="folder of a store of proposals")],
    out: Annotated[Path, typer.Option(help="file to write: .json (COCO results) or .parquet (one line per box)")],
    image_list: Annotated[Path | None, typer.Option("--list", help="COCO file that numbers the images")] = None,
    images: Annotated[Path | None, typer.Option(help="folder of the photos, for --masks")] = None,
    category_id: Annotated[int, typer.Option(help="category of every proposal in COCO results")] = 1,
    masks: Annotated[bool, typer.Option("--masks", help="write the masks too (RLE, COCO results only)")] = False,
) -> None:
    """Write a store of proposals as COCO results or as a flat Parquet table."""
    from weaksam.data.proposals.exchange import export_proposals

    answer(export_proposals(source, out, image_list=image_list, photos=images, category_id=category_id, masks=masks))


def draw_boxes(
    source: Annotated[Path, typer.Argument(help="folder of a store of proposals")],
    images: Annotated[Path, typer.Option(help="folder of the photos")],
    image: Annotated[str, typer.Option(help="which photo: its name, ending and folders may be left out")],
    out: Annotated[Path, typer.Option(help="picture to write (.png or .jpg)")],
    most: Annotated[int, typer.Option(min=1, help="most proposals of a source to draw, best first")] = 25,
    max_pixels: Annotated[int | None, typer.Option(help="largest photo read, as data.limits.max_pixels")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="largest file read, as data.limits.max_bytes")] = None,
) -> None:
    """Draw one photo's proposals, a panel for each source: grid, coarse, fine, cross, joint."""
    from weaksam.config import settings_from
    from weaksam.data.photo_limits import PhotoLimits
    from weaksam.report.proposal_picture import draw_stored

    given = {"max_pixels": max_pixels, "max_bytes": max_bytes}
    limits = {name: value for name, value in given.items() if value is not None}
    answer(draw_stored(source, images, image, out, most, settings_from(PhotoLimits, limits, "the options")))
