"""Measure how much AP some decisions of a review bring: simulated from the true boxes, on the most doubtful labels.

    python benchmarks/review.py OUT REVIEWED [--decisions 50] [--until retrain|pseudo_gt]

OUT is the folder of a run whose pseudo ground truth is finished and whose training and test photos have true boxes; it
is trained up to its retraining, where it is not. The decisions are those of a reviewer who always sees the true object:
nobody reviewed. They are taken in the order of that run's report, photos by doubt and in each the least trusted box
first, and applied as `weaksam review apply` does to a copy of the run in REVIEWED, which is trained up to its
retraining; an interrupted training goes on. ``--until pseudo_gt`` does not train it: the labels alone are measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from weaksam.config import UserError
from weaksam.evaluation.pseudo_gt_kinds import sort_boxes
from weaksam.evaluation.text import number
from weaksam.pipeline.pictured import pictured
from weaksam.pipeline.plan import STAGES
from weaksam.pipeline.review import BEFORE, apply_review
from weaksam.pipeline.running import recorded_settings, run
from weaksam.pipeline.state import Run, open_run, require_finished
from weaksam.report.insights import Insights, insights
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances

GOOD_IOU = 0.75
"""A box that overlaps its object by as much is accepted as it is; a looser one is redrawn."""


def decide(truth: Instances, pseudo_gt: Instances, rows: list[int], tags: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """What a reviewer who sees the true objects decides on the boxes ``rows`` of one photo: verdicts with their values.

    A box on an object that no better box has is accepted, or redrawn where its IoU is below `GOOD_IOU` (a part, a group
    or a box beside it that meets an object which no box is right on is redrawn to that one); one that fits an object of
    another class is relabelled where that is a tag; any other one is rejected.
    """
    kinds = sort_boxes(truth, pseudo_gt)
    overlap = pairwise_iou(pseudo_gt.boxes, truth.boxes)
    taken = {int(kinds.met[row]) for row, kind in enumerate(kinds.boxes) if kind == "right"}
    for row in rows:
        met, kind = int(kinds.met[row]), kinds.boxes[row]
        if kind == "right" and overlap[row, met] >= GOOD_IOU:
            yield {"row": row, "decision": "accept"}
        elif kind == "right" or (kind in ("part", "group", "wrong_place") and met >= 0 and met not in taken):
            taken.add(met)
            yield {"row": row, "decision": "redraw", "to_box": truth.boxes[met].tolist()}
        elif kind == "wrong_class" and int(truth.labels[overlap[row].argmax()]) in tags:
            yield {"row": row, "decision": "relabel", "to_label": int(truth.labels[overlap[row].argmax()])}
        else:
            yield {"row": row, "decision": "reject"}


def order_of(opened: Run, known: Insights) -> list[tuple[str, int]]:
    """Photo and row of every box, in the order in which the report's review shows them."""
    pseudo_gt = opened.results["pseudo_gt"]
    places = []
    for image_id in sorted(known.doubts, key=lambda name: (-known.doubts[name], name)):
        boxes = pseudo_gt[image_id]
        crowd = torch.zeros(len(boxes), dtype=torch.bool) if boxes.crowd is None else boxes.crowd
        believed, chance = (~crowd).nonzero()[:, 0].tolist(), known.trust[image_id].known.nan_to_num(-1.0).tolist()
        places += [(image_id, row) for _, row in sorted(zip(chance, believed, strict=True))]
        places += [(image_id, row) for row in crowd.nonzero()[:, 0].tolist()]
    return places


def simulated(opened: Run, num: int) -> list[dict[str, Any]]:
    """The first ``num`` decisions of a simulated reviewer, as a report's download holds them."""
    places = order_of(opened, insights(pictured(opened)))[:num]
    classes, decisions = opened.context.train.classes, []
    for image_id in dict.fromkeys(name for name, _ in places):
        truth, boxes = opened.true_train.truths[image_id], opened.results["pseudo_gt"][image_id]
        rows = [row for name, row in places if name == image_id]
        for decision in decide(truth, boxes, rows, opened.context.train.by_id[image_id].tags):
            box, label = boxes.boxes[decision["row"]].tolist(), classes[int(boxes.labels[decision["row"]])]
            more = {"to_label": classes[decision["to_label"]]} if "to_label" in decision else {}
            decisions.append({"image_id": image_id, "box": box, "label": label, **decision, **more})
    return decisions


def figures_of(metrics: dict[str, Any]) -> dict[str, str]:
    """Precision and recall of the labels, and AP50 / AP75 / AP of the network alone and of what was handed on."""
    figures = {row["stage"]: row["figures"] for row in metrics["stages"]}
    labels = figures["pseudo_gt"]["train_chosen"]
    known = {"precision": number(labels["precision"]), "recall": number(labels["recall"])}
    aps = {}
    if "retrain" not in figures:
        return known | {"network": "not trained", "chosen": "not trained"}
    for title, name in (("network", "test_network_boxes"), ("chosen", "test_boxes")):
        of = figures["retrain"][name]
        aps[title] = " / ".join(map(number, (of["mean"]["0.5"], of["mean"]["0.75"], of["average"])))
    return known | aps


def main() -> None:
    """Simulate the review, train with it, and print both rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of a run whose pseudo ground truth is finished")
    parser.add_argument("reviewed", type=Path, help="folder for the copy of the run that is trained with the review")
    parser.add_argument("--decisions", type=int, default=50, help="how many; 50")
    parser.add_argument(
        "--until", choices=("pseudo_gt", "retrain"), default="retrain", help="last stage of the review; retrain"
    )
    arguments = parser.parse_args()
    settings = recorded_settings(arguments.out)
    opened = open_run(settings)
    if opened.truths["train"] is None or opened.truths["test"] is None:
        raise UserError(
            "wanted true boxes of training and test photos to simulate a review and to measure by: set them"
        )
    require_finished(opened, BEFORE)
    before = run(settings, until="retrain")  # so that the order of doubt is that of the report of a whole run
    opened = open_run(settings)
    for stage in STAGES:
        if opened.finished(stage.name):
            stage.run(opened)
    path = arguments.reviewed.with_suffix(".json")
    if not arguments.reviewed.exists():
        skipped = shutil.ignore_patterns("retrain", "wsis", "roi_drop", "report_photos", ".*")
        shutil.copytree(arguments.out, arguments.reviewed, ignore=skipped)
        decisions = simulated(opened, arguments.decisions)
        key = {"name": arguments.out.name, "pseudo_gt": opened.key("pseudo_gt")}
        file = {"format": "weaksam-review", "version": 1, "run": key, "decisions": decisions}
        path.write_text(json.dumps(file, indent=1))
    verdicts = Counter(decision["decision"] for decision in json.loads(path.read_text())["decisions"])
    mine = recorded_settings(arguments.reviewed)
    if mine.pseudo_gt.review:
        reviewed = run(mine, until=arguments.until)
    else:
        reviewed = apply_review(arguments.reviewed, path, until=arguments.until)
    print(f"\n{sum(verdicts.values())} decisions, simulated from the true boxes: {dict(verdicts)}")
    print("| review | precision of the labels | recall | network alone, AP50 / AP75 / AP | handed on |")
    print("|---|---|---|---|---|")
    for name, metrics in (("none", before), ("simulated", reviewed)):
        print("| " + " | ".join([name, *figures_of(metrics).values()]) + " |", flush=True)


if __name__ == "__main__":
    main()
