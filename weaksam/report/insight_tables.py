"""Make the page's tables of tags, sources, labels, error kinds and label quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from weaksam.evaluation.detection_errors import ERROR_KINDS
from weaksam.evaluation.label_trust import NUM_FOLDS, STABLE_IOU
from weaksam.evaluation.text import number
from weaksam.report.insights import Insights
from weaksam.report.photo_records import LABELS, ZONES, GalleryData
from weaksam.report.tables import Table, bar
from weaksam.structures.clue_points import SOURCES
from weaksam.structures.proposals import IMPORTED

MOST_DOUBTFUL = 12
MOST_TOGETHER = 15
"""Classes of the table of tags that come together at most."""


def gallery_link(text: str, **state: str) -> dict[str, str]:
    """A cell that opens the gallery with its filters set: ``stage``, ``label``, ``kind``, ``split`` or ``photo``."""
    return {"text": text, "href": "#gallery?" + "&".join(f"{name}={quote(value)}" for name, value in state.items())}


def insight_tables(classes: Sequence[str], insights: Insights, data: GalleryData) -> Iterator[Table]:
    """The tables that the run allows, in the order of the stages; one without rows is left out."""
    for table in (
        tag_table(classes, insights),
        together_table(classes, insights),
        source_table(insights),
        zone_table(data),
        error_table(classes, insights),
        quality_table(insights),
        doubtful_table(classes, insights, data),
    ):
        if table.rows:
            yield table


def tag_table(classes: Sequence[str], insights: Insights) -> Table:
    """Photos of each class by split, and how many tags a photo has."""
    rows: list[list[Any]] = []
    for label, name in enumerate(classes):
        cells = [
            {"percent": round(100 * of.photos[label] / max(1, of.num_photos), 1), "text": str(of.photos[label])}
            for of in insights.tags.values()
        ]
        rows.append([name, *cells])
    numbers = "; ".join(
        f"{split}: " + ", ".join(f"{count} with {tags}" for tags, count in of.by_number.items())
        for split, of in insights.tags.items()
    )
    columns = ["class", *(f"{split} photos" for split in insights.tags)]
    return Table("Tags", columns, rows if insights.tags else [], f"Photos by number of tags: {numbers}.")


def together_table(classes: Sequence[str], insights: Insights) -> Table:
    """How many training photos have both of two tags; of the most frequent classes where there are many."""
    statistics = insights.tags.get("train")
    if statistics is None or len(classes) < 2:
        return Table("Tags together", [], [])
    labels = sorted(range(len(classes)), key=lambda label: -statistics.photos[label])[:MOST_TOGETHER]
    rows = [[classes[row], *(str(statistics.together[row, column]) for column in labels)] for row in labels]
    text = "Training photos that have both tags. A class that always comes with another cannot be told from it."
    return Table("Tags together", ["", *(classes[label] for label in labels)], rows, text)


def source_table(insights: Insights) -> Table:
    """Proposals by what prompted them, and the recall of each source alone."""
    rows = [
        [
            "imported" if row.source == IMPORTED else SOURCES[row.source] if row.source < len(SOURCES) else "other",
            f"{row.per_photo:.1f}",
            *(number(value) for value in row.recall.values()),
        ]
        for row in insights.sources
    ]
    ious = insights.sources[0].recall if insights.sources else {}
    columns = ["prompted by", "a photo", *(f"recall at {iou:g}" for iou in ious)]
    text = "Each source alone, on the training photos; a proposal that several prompts gave counts for the first one."
    return Table("Proposals by source", columns, rows, text)


def zone_table(data: GalleryData) -> Table:
    """Boxes of the shown training photos that are believed, ignored or background, by reason."""
    boxes = [
        box for photo in data.photos if LABELS in photo["layers"] for box in photo["layers"][LABELS]["b"]
    ]  # box: corners, label, score, kind, zone, reason, row, chance
    counts = Counter((int(box[7]), int(box[8])) for box in boxes)
    rows: list[list[Any]] = [
        [gallery_link(ZONES[zone], stage=LABELS), data.reasons[reason], str(count)]
        for (zone, reason), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1]))
    ]
    text = (
        "What training is told: believed boxes are objects, ignored regions teach nothing, background is all else; of "
        "the weak detector's detections that became background the best ones of a photo are counted."
    )
    return Table("Pseudo ground truth, box by box", ["zone", "reason", "boxes"], rows, text)


def error_table(classes: Sequence[str], insights: Insights) -> Table:
    """Kinds of errors of each set of detections on the test photos, all classes and each; cells lead to the gallery."""
    rows: list[list[Any]] = []
    for title, counts in insights.errors.items():
        figures = counts.as_dict()
        cells = [_kind_link(str(figures["kinds"][kind]), title, kind) for kind in ERROR_KINDS]
        missed = _kind_link(str(figures["missed"]), title, "missed")
        rows.append([f"{title}, all classes", *cells, missed, str(figures["num_truths"])])
        for label, name in enumerate(classes):
            cells = [_kind_link(str(counts.counts[kind][label]), title, kind, str(label)) for kind in ERROR_KINDS]
            missed = _kind_link(str(counts.missed[label]), title, "missed", str(label))
            rows.append([f"{title}, {name}", *cells, missed, str(counts.num_truths[label])])
    rules = next((counts.rules for counts in insights.errors.values()), "")
    text = f"On the test photos, {rules}. A number leads to the gallery, which shows every confident detection."
    return Table("Kinds of errors", ["detections", *ERROR_KINDS, "missed", "objects"], rows, text)


def _kind_link(text: str, stage: str, kind: str, label: str = "") -> dict[str, str]:
    state = {"stage": stage, "kind": kind, "split": "test"} | ({"label": label} if label else {})
    return gallery_link(text, **state)


def quality_table(insights: Insights) -> Table:
    """The predicted precision of the believed boxes beside the true one, and how the tags agree with detections."""
    rows: list[list[Any]] = []
    predicted = insights.predicted
    if predicted is not None and predicted.num_boxes:
        interval = f"{number(predicted.low)} to {number(predicted.high)}"
        true = number(insights.true_precision)
        rows.append(["precision of the believed boxes", number(predicted.precision), interval, true])
        rows.append(["share that the retrained network confirms", number(predicted.stability), "", ""])
    for row in insights.agreement:
        place = f"{row.split} photos, {'taught' if row.taught else 'held out'}"
        rows.append([f"tag AP of {row.title}, {place}", number(row.value), "", ""])
    text = (
        "Computed without a true box. Predicted precision: the mean over the believed boxes of the share of such "
        f"detections that are there because of the tag (learnt from other photos, in {NUM_FOLDS} folds) times the IoU "
        "with the nearest box of the class that the retrained network detects on the training photos; without it "
        "(retrain.detect_train=false) nothing is predicted. Its interval, 95 %, is that of the choice of photos alone. "
        f"Confirmed: an IoU of {STABLE_IOU:g} or more. The true precision, at IoU 0.5, stands beside it where true "
        "boxes are known. Tag AP: how well the best score of a class ranks the photos that have its tag."
    )
    return Table("Label quality without truth", ["", "value", "interval", "true"], rows, text)


def doubtful_table(classes: Sequence[str], insights: Insights, data: GalleryData) -> Table:
    """The training photos to look at first."""
    rows: list[list[Any]] = []
    for photo in data.photos:
        if photo["d"] and len(rows) < MOST_DOUBTFUL:
            boxes = [box for box in photo["layers"].get(LABELS, {"b": []})["b"] if box[7] == 0]
            lost = [classes[label] for label in photo["t"] if label not in {box[4] for box in boxes}]
            why = f"no box of {', '.join(lost)}" if lost else _least_trusted(classes, boxes)
            link = gallery_link(photo["i"], photo=photo["i"], split="train", stage=LABELS)
            rows.append([link, bar(photo["d"]), why])
    text = (
        "Doubt: 1 less the predicted chance that the least trusted box of the photo is right; 1 where a tag has none."
    )
    return Table("The most doubtful photos", ["photo", "doubt", "because of"], rows, text)


def _least_trusted(classes: Sequence[str], boxes: Sequence[Sequence[float]]) -> str:
    known = [box for box in boxes if box[10] >= 0]
    if not known:
        return "boxes of which nothing is known"
    box = min(known, key=lambda box: box[10])
    return f"{classes[int(box[4])]}, score {box[5]:.2f}"


def as_cell(value: Any) -> Mapping[str, Any]:
    """A cell for the template: ``text``, ``percent`` of a bar and ``href`` of a link, None where it has none."""
    return {"percent": None, "href": None, **(value if isinstance(value, Mapping) else {"text": value})}
