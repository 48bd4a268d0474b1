"""Define the commands of ``weaksam pseudo-gt`` besides the stage itself: measure and export."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from weaksam.terminal import answer

Source = Annotated[
    Path, typer.Argument(help="folder of a run, or boxes of any tool: COCO JSON, VOC XML folder or YOLO labels")
]


def evaluate_pseudo_gt(
    source: Source,
    truth: Annotated[
        Path | None, typer.Option(help="true boxes: COCO JSON, VOC XML folder or YOLO labels; by default the run's own")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="folder of photos: only theirs count; needed for YOLO")] = None,
    classes: Annotated[
        str | None, typer.Option(help="comma-separated, or a file of one a line: the order of VOC or YOLO classes")
    ] = None,
    iou: Annotated[float, typer.Option(help="IoU from which a box is on an object")] = 0.5,
    masks: Annotated[
        bool, typer.Option("--masks", help="measure masks: of a run its pseudo masks; files of masks always are")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Count pseudo boxes and sort their errors into kinds, per class, and measure masks; without a truth counts."""
    from weaksam import pipeline
    from weaksam.cli.measuring_options import parse_classes
    from weaksam.evaluation.text import pseudo_gt_text

    figures = pipeline.measure_pseudo_gt(source, truth, images, parse_classes(classes), iou, masks)
    answer(dumps(figures.as_dict(), indent=1) if json else pseudo_gt_text(figures))


def export_pseudo_gt(
    source: Source,
    out: Annotated[Path, typer.Option(help="what to write: a .json file (COCO) or a folder (VOC XML)")],
    images: Annotated[Path | None, typer.Option(help="folder of photos, for boxes of files that state no size")] = None,
) -> None:
    """Write pseudo ground truth as COCO JSON or VOC XML, photos without a box included."""
    from weaksam import pipeline

    answer(pipeline.export_pseudo_gt(source, out, images))
