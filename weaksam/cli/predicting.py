"""Define the command ``weaksam predict``: detect with a checkpoint on new photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weaksam.terminal import say


def predict(
    weights: Annotated[
        Path, typer.Option(help="a checkpoint: OUT/wsod, OUT/retrain or OUT/wsis /checkpoint.safetensors")
    ],
    images: Annotated[Path, typer.Option(help="folder of photos (JPEG, PNG, WebP or BMP)")],
    out: Annotated[Path, typer.Option(help="folder for what is predicted")],
    format: Annotated[str, typer.Option(help="files to write, with commas: json, coco, yolo")] = "json",
    draw: Annotated[bool, typer.Option("--draw", help="also draw every photo with its detections")] = False,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="least score of what is written")] = 0.0,
    tile: Annotated[
        int | None, typer.Option(min=64, help="detect in tiles of so many pixels a side: large photos, small objects")
    ] = None,
    overlap: Annotated[float, typer.Option(min=0, max=0.89, help="share of its side that a tile has in common")] = 0.25,
    sam: Annotated[
        str | None, typer.Option(help="another segmenter for the weak detector's proposals than its checkpoint names")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="photos of one size at a time; 8 on a GPU, else 1")
    ] = None,
    max_pixels: Annotated[int | None, typer.Option(help="largest photo read, as data.limits.max_pixels")] = None,
) -> None:
    """Detect on new photos from a checkpoint alone; rerunning the same command resumes where it stopped.

    Any detector works: the weak one, Faster R-CNN, DINO, Mask R-CNN, Mask2Former. Files that are no photos are set
    aside and counted.
    """
    from weaksam.config import settings_from
    from weaksam.data.photo_limits import PhotoLimits
    from weaksam.prediction.folder import check_formats, predict_folder
    from weaksam.prediction.predictor import load
    from weaksam.prediction.tiles import TileSettings

    formats = [name.strip() for name in format.split(",") if name.strip()]
    check_formats(formats)
    tiles = None if tile is None else TileSettings(side=tile, overlap=overlap)
    limits = {} if max_pixels is None else {"max_pixels": max_pixels}
    predictor = load(weights, device=device, sam=sam, batch_size=batch_size)
    predictions = predict_folder(
        predictor,
        images,
        out,
        formats=formats,
        draw=draw,
        min_score=min_score,
        tiles=tiles,
        limits=settings_from(PhotoLimits, limits, "the options"),
    )
    say(str(predictions))
