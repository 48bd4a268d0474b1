"""Show figures as text: numbers, aligned tables, and what the measuring commands print on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weaksam.evaluation.clue_figures import ALL, ClueFigures
from weaksam.evaluation.clues import ClueResult
from weaksam.evaluation.protocol import AP_IOUS
from weaksam.evaluation.pseudo_gt import PseudoGtResult
from weaksam.evaluation.pseudo_gt_figures import PseudoGtFigures
from weaksam.evaluation.pseudo_gt_kinds import BOX_KINDS, OBJECT_KINDS, KindCounts
from weaksam.evaluation.recall import RecallResult
from weaksam.evaluation.recall_files import AR_COUNTS, IOUS, RecallReport
from weaksam.evaluation.voc import MASK_IOUS

NOT_MEASURED = "not measured"


def number(value: float | None) -> str:
    """A share in [0, 1] with three decimals; a dash for None and nan."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of text, aligned left under a header and a rule; no rows give the header and the rule alone."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, rule, *rows)
    ]


def titled_table_lines(
    title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]], title_width: int
) -> list[str]:
    """Columns of numbers, aligned right beside the rows' names, under a title and the columns' names; a blank line."""

    def line(name: str, cells: Sequence[str]) -> str:
        return f"{name:<{title_width}}" + "".join(f"{cell:>9}" for cell in cells)

    return [line(title, columns), *(line(name, cells) for name, cells in rows.items()), ""]


def brief(figures: Mapping[str, Any], *names: tuple[str, str]) -> str:
    """``label value`` of each figure that was measured, as one line; `NOT_MEASURED` where none was.

    ``names``: (path, label) of each; a path such as ``test_boxes/mean/0.5`` leads through nested figures.
    """
    shown = []
    for path, label in names:
        value: Any = figures
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            shown.append(f"{label} {value:.3f}")
    return ", ".join(shown) or NOT_MEASURED


# weaksam eval


def evaluation_text(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of `evaluate_files`: for each its means, AP by IoU, a line per class, and its protocol."""
    lines: list[str] = []
    for name, values in figures.items():
        lines += [f"{name}: {', '.join(f'{label} {number(mean)}' for label, mean in _means(values).items())}"]
        by_iou = ap_by_iou(values)
        if by_iou:
            lines += [f"  AP by IoU: {', '.join(f'{iou} {number(value)}' for iou, value in by_iou.items())}"]
        lines += [f"  {class_name}: {value}" for class_name, value in _per_class(values).items()]
        lines += [f"  protocol: {values['protocol']}"]
    return "\n".join(lines)


def _means(values: Mapping[str, Any]) -> dict[str, float | None]:
    """The means over all classes of one figure by their names: COCO's, VOC's by IoU, or the only one."""
    for headlines in _HEADLINES:
        if headlines.keys() <= values.keys():
            return {label: values[name] for name, label in headlines.items()}
    if "ap" in values:
        return {key: values[key] for key in ("ap", "ap50", "ap75", "ar100")}
    mean = values["mean"]
    if isinstance(mean, Mapping):
        return {f"AP{round(100 * iou)}": mean[f"{iou:g}"] for iou in headline_ious(mean)} | {
            "AP .5:.95": values.get("average")
        }
    return {"mean": mean}


_HEADLINES = (
    {"pq": "PQ", "sq": "SQ", "rq": "RQ"},
    {"mean": "mIoU", "mean_of_objects": "without background"},
    {"mask_iou": "IoU of masks", "boundary_iou": "with boundaries", "object_iou": "of objects"},
)
"""Keys of the figures that compare masks, and what they are called."""


def headline_ious(mean: Mapping[str, Any]) -> tuple[float, ...]:
    """Of the IoUs of a VOC figure those that are shown first: 0.5 and 0.75, of masks 0.25, 0.5, 0.7 and 0.75."""
    return MASK_IOUS if "0.25" in mean else tuple(iou for iou in (0.5, 0.75) if f"{iou:g}" in mean)


def ap_by_iou(values: Mapping[str, Any]) -> dict[str, float | None]:
    """AP by IoU from .5 to .95 of a figure of VOC's or COCO's; empty where it was not measured at all of them."""
    known = values.get("by_iou", values.get("mean"))
    names = [f"{iou:g}" for iou in AP_IOUS]
    return {name: known[name] for name in names} if isinstance(known, Mapping) and set(names) <= set(known) else {}


def _per_class(values: Mapping[str, Any]) -> dict[str, str]:
    """A figure in words by class name: VOC's at IoU 0.5, or at its first IoU where 0.5 was not measured.

    Of the mean IoU of masks all its means, and those by size.
    """
    per_class = values["per_class"]
    if isinstance(per_class, Mapping):
        per_class = per_class.get("0.5", next(iter(per_class.values())))
    rows = dict(zip(values["classes"], per_class, strict=True))
    if "per_size" not in values:
        return {name: number(value) for name, value in rows.items()}
    rows |= {f"{name} objects": of_size for name, of_size in values["per_size"].items()}
    return {
        name: f"{', '.join(f'{label} {number(mean)}' for label, mean in _means(of).items())} "
        f"({of['num_masks']} masks, {of['num_objects']} objects)"
        for name, of in rows.items()
    }


# weaksam recall


def recall_text(report: RecallReport) -> str:
    """Recall by IoU and number of boxes, AR, per class where measured; then what was measured, and the protocol."""
    shared = report.first
    lines = [f"{shared.num_truths} objects in {shared.protocol.num_images} images of {report.truth}", ""]
    width = max(map(len, [*report.sets, *report.classes, "recall at IoU 0.75"]))
    counts: list[int | None] = [*report.counts, None]
    columns = ["all" if count is None else str(count) for count in counts]
    for iou in IOUS:
        rows = {name: [number(of.result.at(iou, count)) for count in counts] for name, of in report.sets.items()}
        lines += titled_table_lines(f"recall at IoU {iou:g}", columns, rows, width)
    rows = {
        name: [number(of.result.average_recall_at(count)) for count in AR_COUNTS] for name, of in report.sets.items()
    }
    lines += titled_table_lines("AR, IoU 0.5:0.95", list(map(str, AR_COUNTS)), rows, width)
    columns = ["objects", *(f"@{iou:g}" for iou in IOUS), "AR"]
    for name, measured in report.sets.items() if report.classes else ():
        per_class = zip(report.classes, measured.result.per_class, strict=True)
        rows = {class_name: _all_boxes_cells(result) for class_name, result in per_class}
        lines += titled_table_lines(f"{name}, all boxes", columns, rows, width)
    lines += [f"{name}: {measured.boxes}; {measured.path}" for name, measured in report.sets.items()]
    return "\n".join([*lines, *report.notes, f"protocol: {shared.protocol}"])


def _all_boxes_cells(result: RecallResult) -> list[str]:
    """Number of objects, recall at each of `IOUS` and AR, of all boxes."""
    return [str(result.num_truths), *(number(result.at(iou)) for iou in IOUS), number(result.average_recall_at(None))]


# weaksam clues eval


def clue_text(figures: ClueFigures, classes: Sequence[str]) -> str:
    """A row per kind of clue points, per class and per kind of maps, and the protocols."""
    header = ("points", "number", "inside", "top inside", "per object", "objects hit")
    rows = [(name, *_point_cells(result)) for name, result in figures.points.items()]
    if len(figures.points) == 2:  # one kind, which is all
        rows = rows[:1]
    per_class = zip(classes, figures.points[ALL].per_class, strict=True)
    class_rows = [(class_name, *_point_cells(result)) for class_name, result in per_class]
    lines = [*table_lines(header, rows), "", *table_lines(header, class_rows), ""]
    if figures.masks:
        rows = [
            (name, number(max(result.miou)), f"{result.best:g}", number(result.at(0.5)))
            for name, result in figures.masks.items()
        ]
        lines += [*table_lines(("masks", "best mIoU", "at", "mIoU at 0.5"), rows), ""]
    protocols = [str(figures.points[ALL].protocol), *(str(result.protocol) for result in figures.masks.values())]
    return "\n".join([*lines, *(f"protocol: {protocol}" for protocol in dict.fromkeys(protocols))])


def _point_cells(result: ClueResult) -> tuple[str, ...]:
    shares = (result.inside, result.top_inside, result.points_per_object, result.hit)
    return (str(result.num_points), *map(number, shares))


# weaksam pseudo-gt eval


def pseudo_gt_text(figures: PseudoGtFigures) -> str:
    """How many boxes there are, and a row per class and for all: counts and, with a truth, quality and kinds."""
    num_full = figures.num_photos - figures.num_empty
    number_of = sum(figures.num_boxes)
    lines = [
        f"{number_of} boxes on {num_full} of {figures.num_photos} photos, {number(figures.per_photo)} a photo; "
        f"{figures.num_empty} photos without any",
        "",
    ]
    header = ["class", "boxes", "a photo with some"]
    rows = [
        [class_name, str(figures.num_boxes[label]), number(figures.per_photo_of(label))]
        for label, class_name in enumerate(figures.classes)
    ]
    rows.append(["all", str(number_of), number(number_of / num_full if num_full else None)])
    if figures.quality is not None and figures.kinds is not None:
        header += ["precision", "recall", "IoU", *(kind.replace("_", " ") for kind in BOX_KINDS)]
        header += ["objects:", *OBJECT_KINDS]
        columns = _truth_columns(figures.quality, figures.kinds, len(figures.classes))
        rows = [[*row, *more] for row, more in zip(rows, columns, strict=True)]
    lines += [*table_lines(header, rows), "", *_zone_lines(figures), *figures.notes]
    if figures.quality is not None and figures.kinds is not None:
        lines += [f"protocol: {figures.quality.protocol}", f"kinds: {figures.kinds.rules}"]
    if figures.masks is not None:
        of_masks = {name: {"classes": figures.classes, **v} for name, v in figures.masks.as_dict().items()}
        lines += ["", evaluation_text(of_masks)]
    return "\n".join(lines)


def _zone_lines(figures: PseudoGtFigures) -> list[str]:
    """How many regions are ignored and, with a truth, which share of the missed objects they cover; none, no line."""
    if not sum(figures.num_ignored):
        return []
    of_classes = zip(figures.classes, figures.num_ignored, strict=True)
    line = f"ignored regions: {sum(figures.num_ignored)} ({', '.join(f'{name} {num}' for name, num in of_classes)})"
    if figures.zones is None:
        return [line]
    zones = figures.zones
    covered = f"{sum(zones.num_covered)} of {sum(zones.num_missed)} missed objects covered"
    return [f"{line}; {covered}", f"ignored regions: {zones.as_dict()['rules']}"]


def _truth_columns(quality: PseudoGtResult, kinds: KindCounts, num_classes: int) -> list[list[str]]:
    """Precision, recall, mean IoU and the counts of each kind, of every class and then of all."""

    def counts(pick: Callable[[Sequence[int]], int]) -> list[str]:
        of_objects = [pick(values) for values in kinds.objects.values()]
        boxes = [pick(values) for values in kinds.boxes.values()]
        return list(map(str, [*boxes, sum(of_objects), *of_objects]))

    rows = [
        [number(values[label]) for values in (quality.precision, quality.recall, quality.overlap)]
        + counts(lambda values, label=label: values[label])
        for label in range(num_classes)
    ]
    precision, recall, _ = quality.total()
    return [*rows, [number(precision), number(recall), number(quality.mean_overlap()), *counts(sum)]]
