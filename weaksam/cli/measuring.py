"""Define the commands that measure detections, proposals and clues, and the one that writes a run's report again."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from weaksam.cli.arguments import Json
from weaksam.terminal import answer


def evaluate(
    truth: Annotated[Path, typer.Option(help="true boxes: COCO JSON, VOC XML folder or YOLO labels")],
    detections: Annotated[
        Path, typer.Option(help="COCO results, a run's store of detections, or VOC's comp4_det_test_CLASS.txt files")
    ],
    metrics: Annotated[
        str, typer.Option(help="comma-separated: voc, voc11, corloc, coco, mask, boundary, mask_iou, miou, pq")
    ] = "voc,corloc,coco",
    images: Annotated[Path | None, typer.Option(help="folder of photos: only theirs count; needed for YOLO")] = None,
    image_list: Annotated[
        Path | None,
        typer.Option("--list", help="only these images count: a name a line (VOC's lists), or COCO JSON"),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="comma-separated, or a file of one a line: the order of VOC or YOLO classes")
    ] = None,
    tags: Annotated[Path | None, typer.Option(help="tags for CorLoc; by default those of the true boxes")] = None,
    proposals: Annotated[
        Path | None, typer.Option(help="store (or table) of proposals: measure CorLoc's naive baselines as well")
    ] = None,
    nms: Annotated[float | None, typer.Option(help="suppress detections of a class above this IoU first")] = None,
    max_boxes: Annotated[int | None, typer.Option(min=1, help="keep so many best detections of an image")] = None,
    min_score: Annotated[float | None, typer.Option(help="drop detections with a lower score")] = None,
    pixel_inclusive: Annotated[
        bool, typer.Option("--pixel-inclusive", help="x2, y2 of two COCO files are the last pixel inside (VOC AP)")
    ] = False,
    json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="also draw AP by IoU (.png, .svg or .pdf)")] = None,
) -> None:
    """Measure any detections against any truth, and print the protocol with every figure."""
    from weaksam.cli.measuring_options import parse_classes
    from weaksam.evaluation.files import evaluate_files
    from weaksam.evaluation.protocol import DetectionFilter
    from weaksam.evaluation.text import evaluation_text

    if plot is not None:
        from weaksam.report.ap_plot import write_ap_plot
        from weaksam.report.recall_plot import check_plot

        check_plot(plot)
    figures = evaluate_files(
        truth,
        detections,
        metrics.split(","),
        images=images,
        image_list=image_list,
        classes=parse_classes(classes),
        tags=tags,
        proposals=proposals,
        keep=DetectionFilter(min_score, nms, max_boxes),
        pixel_inclusive=pixel_inclusive,
    )
    answer(dumps(figures, indent=1) if json else evaluation_text(figures))
    if plot is not None:
        write_ap_plot(plot, figures)


def recall(
    proposals: Annotated[
        list[str],
        typer.Option(help="[NAME=]PATH of a store, COCO results (.json) or flat table (.parquet); repeat to compare"),
    ],
    truth: Annotated[Path, typer.Option(help="true boxes: COCO JSON, VOC XML folder or YOLO labels")],
    images: Annotated[Path | None, typer.Option(help="folder of photos: only theirs count; needed for YOLO")] = None,
    matching: Annotated[str, typer.Option(help="coco, best-match or one-to-one")] = "coco",
    order: Annotated[str, typer.Option(help="which boxes come first: score, or file for the file's order")] = "score",
    counts: Annotated[str, typer.Option(help="numbers of boxes of the table")] = "50,100,200,300,500",
    count_difficult: Annotated[bool, typer.Option("--count-difficult", help="difficult objects count too")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="also by the objects' class")] = False,
    json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="also draw the curves (.png, .svg or .pdf)")] = None,
) -> None:
    """Measure how many true objects proposals cover, by IoU and number of boxes, and print the protocol."""
    from weaksam.cli.measuring_options import parse_counts, parse_sets
    from weaksam.evaluation.recall_files import measure_recall
    from weaksam.evaluation.text import recall_text

    if plot is not None:
        from weaksam.report.recall_plot import check_plot, write_plot

        check_plot(plot)
    measured = measure_recall(
        parse_sets(proposals),
        truth,
        images,
        matching=matching,  # type: ignore[arg-type]
        order=order,  # type: ignore[arg-type]
        counts=parse_counts(counts),
        count_difficult=count_difficult,
        per_class=per_class,
        curve=plot is not None,
    )
    answer(dumps(measured.as_dict(), indent=1) if json else recall_text(measured))
    if plot is not None:
        write_plot(plot, measured)


def evaluate_maps(
    predictions: Annotated[Path, typer.Argument(metavar="PRED", help="folder of grey maps (.png)")],
    truth: Annotated[Path, typer.Argument(metavar="GT", help="folder of true masks (.png), of the same names")],
    min_max: Annotated[
        bool, typer.Option("--min-max/--as-is", help="stretch each map to 0..1 first, as the toolboxes do, or do not")
    ] = True,
    json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="also draw PR and F curves (.png, .svg or .pdf)")] = None,
) -> None:
    """Measure maps of one foreground against masks: MAE, F, weighted F, E and S, as concealed objects are measured.

    Files are paired by their names without ending; a map of another size is resized to its mask.
    """
    from weaksam.evaluation.map_files import map_text, measure_folders

    if plot is not None:
        from weaksam.report.map_plot import write_map_plot
        from weaksam.report.recall_plot import check_plot

        check_plot(plot)
    report = measure_folders(predictions, truth, stretch=min_max)
    answer(dumps(report.as_dict(), indent=1) if json else map_text(report))
    if plot is not None:
        write_map_plot(plot, {predictions.name: report})


def evaluate_clues(
    out: Annotated[Path, typer.Argument(help="folder of a run whose clues are finished")],
    json: Json = False,
) -> None:
    """Measure a run's clues: pointing game, points per object, objects hit, mIoU of the maps; with the protocol."""
    from weaksam import pipeline
    from weaksam.evaluation.text import clue_text

    figures, classes = pipeline.measure_clues(out)
    answer(dumps({"classes": list(classes), **figures.as_dict()}, indent=1) if json else clue_text(figures, classes))


def report(out: Annotated[Path, typer.Argument(help="folder of a run")], json: Json = False) -> None:
    """Write OUT/report.html and OUT/metrics.json of a finished run again."""
    from weaksam import pipeline

    metrics = pipeline.rewrite_report(out)
    if json:
        answer(dumps(metrics, indent=1))


def show(
    out: Annotated[Path, typer.Argument(help="folder of a run")],
    photo: Annotated[str, typer.Argument(help="a photo of the run, by its name below the photos' folder")],
    picture: Annotated[Path, typer.Option(help="picture to write, .png or .jpg")] = Path("photo.png"),
    columns: Annotated[int, typer.Option(min=1, help="drawings side by side")] = 3,
) -> None:
    """Draw what a run's stages made of one photo: class maps, peaks, proposals, pseudo boxes and masks, detections.

    Of a training photo its way to the pseudo labels, of a test photo its detections; true boxes, where known, dashed.
    """
    from weaksam import pipeline

    answer(pipeline.show_photo(out, photo, picture, columns))


def verify(
    out: Annotated[Path, typer.Argument(help="folder of a run")],
    json: Json = False,
) -> None:
    """Compare every file of a run's folder with the hash it was written with; changes nothing. Exit code 1 for faults.

    A line for each file that is changed, missing or unlisted (written by no run), and what mends it: a command that
    makes it again, or what to delete first. Stages after a damaged one keep their results, for no stage reads a file
    that does not have its hash. A run may be under way; what is not finished is compared as far as it is there.
    """
    from weaksam import pipeline

    verification = pipeline.verify_run(out)
    answer(dumps(verification.as_dict(), indent=1) if json else str(verification))
    raise typer.Exit(1 if verification.faults else 0)
