"""Make the page's detailed tables from the content of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from weaksam.evaluation.protocol import AP_IOUS
from weaksam.evaluation.pseudo_gt_kinds import BOX_KINDS
from weaksam.evaluation.text import ap_by_iou, headline_ious, number

DETECTORS = (
    ("WSOD", "wsod", "test_boxes"),
    ("WSOD ceiling", "wsod_ceiling", "test_boxes"),
    ("chosen", "retrain", "test_boxes"),
    ("retrained network", "retrain", "test_network_boxes"),
    ("true-box ceiling", "retrain_ceiling", "test_boxes"),
    ("masks", "wsis", "test_masks"),
    ("true-mask ceiling", "wsis_ceiling", "test_masks"),
)
"""(column, stage, figure) of the per-class table, in the order of the pipeline."""


@dataclass(frozen=True)
class Table:
    """A titled table; cells are text, ``{"percent", "text"}`` for a bar, or ``{"href", "text"}`` for a link."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    text: str = ""

    @property
    def bars(self) -> bool:
        """Whether its cells are bars, which stand to the left."""
        return any(isinstance(cell, Mapping) and "percent" in cell for row in self.rows for cell in row)


def figures_of(metrics: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The figures of ``stage`` in ``metrics.json``; empty where it did not run or nothing was measured."""
    return next((row["figures"] for row in metrics["stages"] if row["stage"] == stage), {})


def bar(value: float | None, *others: float | None) -> dict[str, Any]:
    """A cell with a bar behind the number ``value``, and other numbers after it."""
    return {"percent": round(100 * (value or 0), 1), "text": " / ".join(map(number, (value, *others)))}


def tables(metrics: Mapping[str, Any]) -> Iterator[Table]:
    """The tables that the figures allow, in the order of the stages; one without rows is left out."""
    for make in (
        clue_table,
        recall_table,
        corloc_table,
        pseudo_gt_table,
        choice_table,
        ap_table,
        class_table,
        mask_table,
        segmentation_table,
        mask_iou_table,
        coco_table,
    ):
        table = make(metrics)
        if table.rows:
            yield table


def clue_table(metrics: Mapping[str, Any]) -> Table:
    """Clue points by the kind of map they were found on."""
    figures = figures_of(metrics, "clues").get("train_clues") or {"points": {}, "masks": {}}
    points = dict(figures["points"])
    if len(points) == 2:  # one kind, which is all
        points.pop("all")
    shares = ("inside", "top_inside", "points_per_object", "hit")
    rows = [
        [
            name,
            str(result["num_points"]),
            *(number(result[share]) for share in shares),
            number(figures["masks"].get(name, {}).get("best")),
        ]
        for name, result in points.items()
    ]
    columns = ["map", "points", "inside a true box", "highest inside", "per object", "objects hit", "mIoU of masks"]
    text = "Pointing game of the peaks of each kind of map; mIoU at the best threshold, where masks are known."
    return Table("Clue points on the training photos", columns, rows, text)


def recall_table(metrics: Mapping[str, Any]) -> Table:
    """Proposal recall on the training photos by count and IoU."""
    figures = figures_of(metrics, "proposals").get("train_recall")
    rows = [
        [
            "all" if row["count"] is None else f"best {row['count']}",
            f"{row['num_proposals']:.1f}",
            *(number(value) for value in row["recall"].values()),
            number(row["average_recall"]),
        ]
        for row in (figures["rows"] if figures else ())
    ]
    ious = list(figures["rows"][0]["recall"]) if figures else []
    columns = ["proposals", "per photo", *(f"recall at {iou}" for iou in ious), "AR 0.5:0.95"]
    return Table("Proposal recall on the training photos", columns, rows)


def corloc_table(metrics: Mapping[str, Any]) -> Table:
    """CorLoc per class, with the naive baselines beside it."""
    figures = figures_of(metrics, "wsod")
    sources = (
        ("WSOD", "train_corloc"),
        ("largest proposal", "train_corloc_largest"),
        ("whole image", "train_corloc_whole"),
        ("random proposal", "train_corloc_random"),
    )
    measured = {title: figures[name] for title, name in sources if figures.get(name)}
    rows = [
        [name, *(number(result["per_class"][label]) for result in measured.values())]
        for label, name in enumerate(metrics["classes"])
    ]
    rows.append(["mean", *(number(result["mean"]) for result in measured.values())])
    text = "Share of tagged training photos whose best box of the class is right; the baselines know no class."
    return Table("CorLoc on the training photos", ["class", *measured], rows if measured else [], text)


def pseudo_gt_table(metrics: Mapping[str, Any]) -> Table:
    """Precision, recall, number and kinds of the pseudo ground truth: as trained on, top-1, and their masks."""
    figures = {**figures_of(metrics, "pseudo_gt"), **figures_of(metrics, "wsis")}
    names = (("as trained on", "train_chosen"), ("top-1", "train_top1"), ("as masks", "train_pseudo_masks"))
    rows = [
        [
            label,
            number(figures[name]["precision"]),
            number(figures[name]["recall"]),
            str(figures[name]["number"]),
            number(figures[name].get("per_photo")),
            *_kind_cells(figures[name].get("kinds")),
            *_zone_cells(figures[name].get("zones")),
            str(sum(of_class["num_truths"] for of_class in figures[name]["per_class"])),
        ]
        for label, name in names
        if figures.get(name)
    ]
    columns = ["chosen", "precision", "recall", "number", "a photo"]
    columns += [*(kind.replace("_", " ") for kind in BOX_KINDS), "missed objects"]
    columns += ["ignored regions", "missed objects in them", "true objects"]
    text = (
        "On the training photos at IoU 0.5; every box and every object is of one kind. Ignored regions are no boxes: "
        "training learns nothing there."
    )
    return Table("Pseudo ground truth", columns, rows, text)


def _kind_cells(kinds: Mapping[str, Any] | None) -> list[str]:
    """Number of boxes of each kind, and of missed objects; dashes for masks, which are not sorted."""
    if kinds is None:
        return ["-"] * (len(BOX_KINDS) + 1)
    return [*(str(kinds["boxes"][kind]) for kind in BOX_KINDS), str(kinds["objects"]["missed"])]


def choice_table(metrics: Mapping[str, Any]) -> Table:
    """Whose detections the retrain stage hands on, and the signal beside the AP of each candidate."""
    figures = figures_of(metrics, "retrain").get("choice")
    if not figures:
        return Table("Whose detections were chosen", [], [])
    rows = []
    for name, of_candidate in figures["candidates"].items():
        aps = three_aps(of_candidate) if "mean" in of_candidate else (None, None, None)
        chosen = "chosen" if name == figures["name"] else ""
        rows.append([name, chosen, number(of_candidate["signal"]), *map(number, aps)])
    text = f"{figures['name']}: {figures['reason']}. The signal is computed without a true box."
    if figures["best"] is not None:
        agreed = (
            "which was the choice" if not figures["lost"] else f"{100 * figures['lost']:.1f} points above the choice"
        )
        text += f" By AP .5:.95 on the test photos {figures['best']} is best, {agreed}."
    columns = ["detections", "", "signal", "test AP50", "test AP75", "test AP .5:.95"]
    return Table("Whose detections were chosen", columns, rows, text)


def _zone_cells(zones: Mapping[str, Any] | None) -> list[str]:
    """Number of ignored regions, and of missed objects that they cover; dashes where none was counted."""
    return ["-", "-"] if zones is None else [str(zones["ignored"]), str(zones["covered"])]


def class_table(metrics: Mapping[str, Any]) -> Table:
    """AP50, AP75 and AP .5:.95 per class (rows) and detector (columns), with the ceilings where they were trained."""
    figures = {title: figures_of(metrics, stage).get(name) for title, stage, name in DETECTORS}
    measured = {title: result for title, result in figures.items() if result is not None}
    rows: list[list[Any]] = [
        [name, *(bar(*_three_of_class(result, label)) for result in measured.values())]
        for label, name in enumerate(metrics["classes"])
    ]
    rows.append(["mean", *(bar(*three_aps(result)) for result in measured.values())])
    text = "AP50 / AP75 / AP .5:.95; the bar is AP50."
    return Table("Test AP per class", ["class", *measured], rows if measured else [], text)


def ap_table(metrics: Mapping[str, Any]) -> Table:
    """AP50, AP75 and AP .5:.95 on the test photos and AP by IoU, a row per detector."""
    figures = {title: figures_of(metrics, stage).get(name) for title, stage, name in DETECTORS}
    measured = {title: result for title, result in figures.items() if result is not None}
    rows = [
        [title, *map(number, three_aps(result)), *(number(ap_by_iou(result).get(f"{iou:g}")) for iou in AP_IOUS)]
        for title, result in measured.items()
    ]
    columns = ["detector", "AP50", "AP75", "AP .5:.95", *(f"{iou:g}" for iou in AP_IOUS)]
    return Table("AP on the test photos, by IoU", columns, rows)


def three_aps(result: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """AP50, AP75 and AP .5:.95 of a VOC figure; None where one was not measured."""
    return result["mean"]["0.5"], result["mean"].get("0.75"), result.get("average")


def _three_of_class(result: Mapping[str, Any], label: int) -> tuple[float | None, float | None, float | None]:
    """The same of one class."""
    of_class = {iou: values[label] for iou, values in result["per_class"].items()}
    known = [value for value in ap_by_iou({"mean": of_class}).values() if value is not None]
    return of_class["0.5"], of_class.get("0.75"), sum(known) / len(known) if known else None


def mask_table(metrics: Mapping[str, Any]) -> Table:
    """Mask AP at the thresholds that weakly supervised instance segmentation reports."""
    rows, columns = [], ["trained on"]
    for label, stage in (("pseudo masks", "wsis"), ("true masks (ceiling)", "wsis_ceiling")):
        figures = figures_of(metrics, stage).get("test_masks")
        if figures:
            ious = headline_ious(figures["mean"])
            columns = ["trained on", *(f"AP{round(100 * iou)}" for iou in ious), "AP .5:.95"]
            values = [*(figures["mean"][f"{iou:g}"] for iou in ious), figures.get("average")]
            rows.append([label, *map(number, values)])
    return Table("Mask AP on the test photos", columns, rows)


def segmentation_table(metrics: Mapping[str, Any]) -> Table:
    """Panoptic quality and mIoU of the masks on the test photos, and of the pseudo masks on the training photos."""
    sources = (
        ("pseudo masks, train", "wsis", "train"),
        ("trained on pseudo masks, test", "wsis", "test"),
        ("trained on true masks (ceiling), test", "wsis_ceiling", "test"),
    )
    rows = []
    for label, stage, split in sources:
        figures = figures_of(metrics, stage)
        panoptic, semantic = figures.get(f"{split}_pq"), figures.get(f"{split}_miou")
        if panoptic and semantic:
            cells = [*(panoptic[name] for name in ("pq", "sq", "rq")), semantic["mean"], semantic["mean_of_objects"]]
            rows.append([label, *map(number, cells)])
    columns = ["masks", "PQ", "SQ", "RQ", "mIoU", "without background"]
    return Table("Masks painted into one map", columns, rows, "The better-scored mask is on top; things only.")


def mask_iou_table(metrics: Mapping[str, Any]) -> Table:
    """Mean IoU of the pseudo masks with true masks: of all, by size of the object and by class."""
    figures = figures_of(metrics, "wsis").get("train_mask_iou")
    named = {} if not figures else {"all": figures, **{f"{name} objects": v for name, v in figures["per_size"].items()}}
    named |= dict(zip(metrics["classes"], figures["per_class"], strict=True)) if figures else {}
    rows = [
        [name, *(number(means[f"{key}_iou"]) for key in ("mask", "boundary", "object")), *_mask_counts(means)]
        for name, means in named.items()
    ]
    columns = ["", "mean IoU of masks", "with boundaries", "mean best IoU of objects", "masks", "objects"]
    text = "A mask is compared with the object of its class that it overlaps most, an object with its best mask."
    return Table("Pseudo masks on the training photos", columns, rows, text)


def _mask_counts(means: Mapping[str, Any]) -> list[str]:
    return [str(means["num_masks"]), str(means["num_objects"])]


def coco_table(metrics: Mapping[str, Any]) -> Table:
    """COCO AP on the test photos, a row per detector."""
    rows = [
        [f"{row['stage']}, {name.removeprefix('test_coco_')}"]
        + [number(figures.get(key)) for key in ("ap", "ap50", "ap75")]
        for row in metrics["stages"]
        for name, figures in row["figures"].items()
        if name.startswith("test_coco")
    ]
    return Table("COCO measures on the test photos", ["detector", "AP", "AP50", "AP75"], rows)
