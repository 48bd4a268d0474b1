"""Define ``weaksam predict`` and ``weaksam export-model``: use a checkpoint here, or take it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weaksam.terminal import answer

MOST_COMPARED = 16
"""Photos that an export is compared on."""


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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
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
    answer(str(predictions))


def export_model(
    weights: Annotated[Path, typer.Option(help="a checkpoint: OUT/retrain or OUT/wsis /checkpoint.safetensors")],
    out: Annotated[Path, typer.Option(help="folder for the model and its runner")],
    format: Annotated[str, typer.Option(help="onnx, or pt2 (torch.export)")] = "onnx",
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of the frame that photos are fitted into; as trained without it")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="photos to compare the export with torch on")] = None,
    truth: Annotated[Path | None, typer.Option(help="their true boxes: AP before and after is measured (onnx)")] = None,
) -> None:
    """Write a network for ONNX Runtime or torch.export, with a runner that needs numpy alone, and print its parity.

    Faster R-CNN, DINO, Mask R-CNN and Mask2Former. The weak detector scores the proposals of a segmenter, which is no
    part of a network file: it is refused.
    """
    from weaksam.data.images import read_image
    from weaksam.data.photos import list_photos
    from weaksam.pipeline.door import load_dataset
    from weaksam.prediction.checkpoint import read_checkpoint
    from weaksam.prediction.export_check import ap_change
    from weaksam.prediction.exporting import export_model as export
    from weaksam.prediction.exporting import parse_size

    measured = images is not None and truth is not None and format == "onnx"
    dataset = load_dataset(images, truth=truth, name="test") if measured and images is not None else None
    paths = [] if images is None else list(list_photos(images).values())[:MOST_COMPARED]
    checkpoint, frame = read_checkpoint(weights), parse_size(size)
    exported = export(checkpoint, out, format, size=frame, photos=[read_image(path) for path in paths])  # type: ignore[arg-type]
    answer(str(exported))
    if dataset is not None:
        answer(str(ap_change(checkpoint, out, dataset)))
