"""Define ``weaksam export``, ``import`` and ``convert-weights``: labels and weights for other tools, out and in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from weaksam.terminal import answer

Classes = Annotated[
    str | None, typer.Option(help="comma-separated, or a file of one a line: the order of VOC or YOLO classes")
]
FORMAT_NAMES = "coco, voc, yolo, yolo-seg, labelstudio, cvat, masks, csv, mmdet, detectron2"


def export_labels(
    source: Annotated[Path, typer.Argument(help="folder of a run, or labels of any tool (see 'weaksam import')")],
    format: Annotated[str, typer.Option(help=FORMAT_NAMES)],
    out: Annotated[Path | None, typer.Option(help="file or folder to write; by default OUT/export/...")] = None,
    what: Annotated[str, typer.Option(help="of a run: pseudo-gt (boxes), masks, or detections")] = "pseudo-gt",
    split: Annotated[str, typer.Option(help="train or test photos of a run; the split's name for files")] = "train",
    images: Annotated[Path | None, typer.Option(help="folder of the photos, for labels of files")] = None,
    classes: Classes = None,
    masks: Annotated[str, typer.Option(help="masks as rle (exact) or polygons: coco, labelstudio, cvat")] = "rle",
    photos: Annotated[str, typer.Option(help="photos in a folder's format: link, copy or none")] = "link",
    min_score: Annotated[float, typer.Option(min=0, max=1, help="leave out objects of a lower score")] = 0.0,
    address: Annotated[
        str | None, typer.Option(help="what Label Studio puts before a photo's path; by default its local files")
    ] = None,
) -> None:
    """Write pseudo labels, masks or detections for another tool: annotation tools, YOLO, mmdet, detectron2."""
    from weaksam import pipeline
    from weaksam.cli.measuring_options import parse_classes
    from weaksam.data.label_export import ExportOptions

    given: dict[str, Any] = {} if address is None else {"address": address}
    choices: dict[str, Any] = {"masks": masks, "photos": photos, **given}
    text = pipeline.export_labels(
        source,
        format,
        out,
        what=what,
        split=split,
        images=images,
        classes=parse_classes(classes),
        min_score=min_score,
        options=ExportOptions(**choices),
    )
    answer(text)


def import_labels(
    source: Annotated[
        Path,
        typer.Argument(help="COCO or Label Studio .json, CVAT .xml, .csv, folder of VOC, YOLO or mask pictures"),
    ],
    use: Annotated[str, typer.Option("--as", help="truth, boxes (for pseudo_gt=given) or tags")],
    out: Annotated[Path, typer.Option(help="file to write: .json (COCO) for truth and boxes, .csv for tags")],
    images: Annotated[Path | None, typer.Option(help="folder of the photos: all of them are listed")] = None,
    classes: Classes = None,
) -> None:
    """Read labels of another tool and write them as a run takes them: true boxes, pseudo boxes, or tags."""
    from weaksam import pipeline
    from weaksam.cli.measuring_options import parse_classes

    answer(pipeline.import_labels(source, use, out, images, parse_classes(classes)))


def convert_weights(
    source: Annotated[Path, typer.Argument(help="weights of a detector: a file, or a folder with weights.safetensors")],
    to: Annotated[str, typer.Option(help="weaksam, detectron2 (Faster and Mask R-CNN) or mmdet (DINO)")],
    out: Annotated[Path, typer.Option(help="file to write: .safetensors for weaksam, else .pth")],
) -> None:
    """Write a detector's weights by the names of detectron2 or mmdet, or theirs by ours."""
    from weaksam import pipeline

    answer(pipeline.convert_weights(source, to, out))
