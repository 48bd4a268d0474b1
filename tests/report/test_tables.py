"""The page's tables, made from the content of metrics.json."""

from tests.helpers import small_metrics
from weaksam.report.tables import (
    ap_table,
    choice_table,
    class_table,
    coco_table,
    mask_iou_table,
    recall_table,
    segmentation_table,
    tables,
)


def test_class_table_has_a_bar_per_class_and_the_mean():
    metrics = small_metrics()
    table = class_table(metrics)
    assert table.columns == ["class", "WSOD"] and table.bars
    assert table.rows[0] == ["cat", {"percent": 50.0, "text": "0.500 / 0.250 / 0.300"}]
    assert table.rows[1] == ["<dog>", {"percent": 0, "text": "- / - / -"}]
    assert table.rows[2][1]["text"] == "0.500 / 0.250 / 0.300"
    assert recall_table(metrics).rows == []
    assert [table.title for table in tables(metrics)] == ["AP on the test photos, by IoU", "Test AP per class"]


def test_ap_table_has_ap_at_every_iou():
    (row,) = ap_table(small_metrics()).rows
    assert row == [
        "WSOD",
        "0.500",
        "0.250",
        "0.300",
        "0.500",
        *["0.300"] * 4,
        "0.250",
        "0.300",
        "0.350",
        "0.200",
        "0.200",
    ]


def test_what_was_measured_at_two_ious_alone_has_no_average():
    metrics = small_metrics()
    figures = metrics["stages"][0]["figures"]["test_boxes"]
    for values in (figures["mean"], figures["per_class"]):
        for iou in set(values) - {"0.5", "0.75"}:
            del values[iou]
    figures["average"] = None
    assert class_table(metrics).rows[0][1]["text"] == "0.500 / 0.250 / -"
    assert ap_table(metrics).rows[0][1:5] == ["0.500", "0.250", "-", "-"]


def test_choice_table_says_what_was_chosen_why_and_what_was_lost():
    aps = {"weak": (0.5, 0.4, 0.3), "merged": (0.6, 0.5, 0.4)}
    rows = {
        name: {"signal": 0.9, "mean": {"0.5": ap50, "0.75": ap75}, "average": average}
        for name, (ap50, ap75, average) in aps.items()
    }
    choice = {"name": "weak", "reason": "set", "candidates": rows, "best": "merged", "lost": 0.1}
    metrics = {"stages": [{"stage": "retrain", "figures": {"choice": choice}}]}
    table = choice_table(metrics)
    assert table.rows == [
        ["weak", "chosen", "0.900", "0.500", "0.400", "0.300"],
        ["merged", "", "0.900", "0.600", "0.500", "0.400"],
    ]
    assert table.text.startswith("weak: set.") and table.text.endswith("merged is best, 10.0 points above the choice.")
    choice |= {"best": None, "lost": None, "candidates": {"weak": {"signal": None}}}
    table = choice_table(metrics)
    assert table.rows == [["weak", "chosen", "-", "-", "-", "-"]] and "best" not in table.text
    assert choice_table({"stages": []}).rows == []


def test_tables_of_masks():
    metrics = small_metrics()
    means = {"mask_iou": 0.5, "boundary_iou": 0.25, "object_iou": None, "num_masks": 3, "num_objects": 0}
    painted = {
        "test_pq": {"pq": 0.3, "sq": 0.6, "rq": 0.5},
        "test_miou": {"mean": 0.7, "mean_of_objects": None},
        "train_mask_iou": {**means, "per_class": [means, means], "per_size": {"small": means}},
        "test_coco_boundaries": {"ap": 0.1, "ap50": 0.2, "ap75": 0.3},
    }
    metrics["stages"].append({"stage": "wsis", "figures": painted})
    assert segmentation_table(metrics).rows == [
        ["trained on pseudo masks, test", "0.300", "0.600", "0.500", "0.700", "-"]
    ]
    table = mask_iou_table(metrics)
    assert [row[0] for row in table.rows] == ["all", "small objects", "cat", "<dog>"]
    assert table.rows[0][1:] == ["0.500", "0.250", "-", "3", "0"]
    assert coco_table(metrics).rows == [["wsis, boundaries", "0.100", "0.200", "0.300"]]
    assert segmentation_table(small_metrics()).rows == mask_iou_table(small_metrics()).rows == []
