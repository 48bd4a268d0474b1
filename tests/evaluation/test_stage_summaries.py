"""What is said of each stage, with and without a truth."""

import torch

from tests.helpers import instances
from weaksam.evaluation.settings import EvaluationSettings
from weaksam.evaluation.stage_summaries import (
    choice_summary,
    proposal_summary,
    pseudo_gt_summary,
    retrain_summary,
    wsod_summary,
)


def test_stages_without_truth_are_counted_and_not_measured():
    nothing = {"train": None, "test": None}
    detections = {"train": {"a": instances([[0, 0, 1, 1], [0, 0, 2, 2]], [0, 0], [0.5, 0.4])}}
    settings = EvaluationSettings()
    summary = wsod_summary(nothing, detections, {}, settings, "")
    assert summary == ("2 train detections", "not measured", {})
    assert pseudo_gt_summary(nothing, detections["train"], {}).made == "2 boxes on 1 photos"
    assert retrain_summary(nothing, {}, settings, "").made == "a trained detector"
    assert proposal_summary(nothing, {"a": torch.zeros(3, 4), "b": torch.zeros(0, 4)}, settings).made.startswith("2 ")


def test_wsod_summary_names_test_ap_and_train_corloc(truth):
    right = {i: objects.replace(scores=torch.ones(len(objects))) for i, objects in truth.instances.items()}
    truths = {"train": truth, "test": truth}
    boxes = {"a": torch.tensor([[0.0, 0, 40, 40]]), "b": torch.tensor([[5.0, 5, 15, 15]])}
    summary = wsod_summary(truths, {"train": right, "test": right}, boxes, EvaluationSettings(), "own NMS")
    assert summary.quality == "test AP50 1.000, AP75 1.000, AP .5:.95 1.000, train CorLoc 1.000"
    assert summary.figures["test_boxes"]["protocol"].endswith("detector: own NMS")
    # The largest proposal of a is the whole image: wrong for its cat and its dog; that of b is right
    assert summary.figures["train_corloc_largest"]["per_class"] == [0.5, 0.0]


CHOICE = {"name": "weak", "reason": "by hand", "signals": {"weak": 0.5, "retrained": 0.25, "merged": 0.75}}
MADE_BY = {"weak": "w", "retrained": "r", "merged": "m", "chosen": "w, moved"}


def test_a_choice_is_measured_beside_what_it_was_chosen_from(truth):
    right = {i: objects.replace(scores=torch.ones(len(objects))) for i, objects in truth.instances.items()}
    candidates = {"weak": {"test": {}}, "retrained": {"test": right}, "merged": {"test": right}}
    summary = choice_summary(
        {"train": None, "test": truth}, candidates["weak"], candidates, CHOICE, EvaluationSettings(), MADE_BY
    )
    assert summary.made == "0 test detections (weak)"
    assert summary.quality == "test AP50 0.000, AP75 0.000, AP .5:.95 0.000, network alone AP50 1.000"
    figures = summary.figures["choice"]
    assert figures["best"] == "retrained" and figures["lost"] == 1.0 and figures["name"] == "weak"
    assert figures["candidates"]["merged"]["signal"] == 0.75 and figures["candidates"]["weak"]["average"] == 0.0
    assert summary.figures["test_boxes"]["protocol"].endswith("detector: w, moved")
    assert summary.figures["test_network_boxes"]["mean"]["0.5"] == 1.0
    assert {"test_coco_boxes", "test_coco_network_boxes"} <= set(summary.figures)


def test_a_choice_without_truth_keeps_its_signals():
    candidates = {name: {"train": {}} for name in ("weak", "retrained", "merged")}
    summary = choice_summary(
        {"train": None, "test": None}, candidates["weak"], candidates, CHOICE, EvaluationSettings(), MADE_BY
    )
    assert summary.quality == "not measured" and set(summary.figures) == {"choice"}
    figures = summary.figures["choice"]
    assert figures["best"] is None and figures["lost"] is None
    assert {name: row["signal"] for name, row in figures["candidates"].items()} == CHOICE["signals"]
