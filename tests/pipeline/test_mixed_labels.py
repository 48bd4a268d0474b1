"""A toy run with a box, a point, a count and a complete photo: what each stage makes of them, and what stays as is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import toy_run
from weaksam import pipeline
from weaksam.config import UserError, fingerprint_of, load_settings
from weaksam.data.dataset import SplitSettings
from weaksam.data.formats.coco import read_instances
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.stages import STAGE_NAMES
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.clue_points import GIVEN


def partial_labels(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Labels of four of the toy run's photos in a COCO file below ``folder``, and that file's true objects by photo."""
    truth = json.loads((folder / "instances_train.json").read_text(encoding="utf-8"))
    objects = {
        image["file_name"]: [row for row in truth["annotations"] if row["image_id"] == image["id"]]
        for image in truth["images"]
    }
    first, second, third, fourth = truth["images"][:4]
    boxed, pointed, counted = (objects[image["file_name"]][0] for image in (first, second, third))
    x, y, width, height = pointed["bbox"]
    keys = ("image_id", "category_id", "bbox", "segmentation")
    rows: list[dict[str, Any]] = [{key: boxed[key] for key in keys}]
    rows.append(
        {"image_id": second["id"], "category_id": pointed["category_id"], "point": [x + width / 2, y + height / 2]}
    )
    rows += [{key: row[key] for key in keys[:3]} for row in objects[fourth["file_name"]]]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    images = [first, second, {**third, "counts": {names[counted["category_id"]]: 1}}, {**fourth, "complete": True}]
    path = folder / "labels.json"
    content = {"images": images, "categories": truth["categories"], "annotations": rows}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, objects


@pytest.mark.slow
def test_every_stage_honours_what_was_labelled(tmp_path: Path) -> None:
    arguments = [*toy_run(tmp_path), f"out={tmp_path / 'out'}", "retrain.negatives.rule=tags", "retrain.rounds=1"]
    labels, objects = partial_labels(tmp_path)
    settings = load_settings(RunSettings, None, [*arguments, f"data.train.labels={labels}"])
    outcome = pipeline.run(settings)
    num_boxes = 1 + len(objects["train_00003.jpg"])
    sentence = f"labels beside the tags: {num_boxes} boxes, 1 masks among them, 1 points, 0 scribbles, 1 counts, "
    assert f"The run believes {sentence}1 complete photos, on 4 photos." in outcome["note"]
    run = open_run(settings)
    for name in STAGE_NAMES[:4]:
        pipeline.plan.stage_named(name).run(run)
    known, results = run.context.labels, run.results
    boxed, pointed, counted, complete = (known[f"train_0000{number}.jpg"] for number in range(4))
    # Proposals: the given boxes come first, the point prompted
    proposals = results["proposals"]["train"]
    assert proposals["train_00000.jpg"]["boxes"][:1].tolist() == boxed.boxes.boxes.tolist()
    assert GIVEN in proposals["train_00001.jpg"]["sources"].tolist()
    assert GIVEN not in proposals["train_00004.jpg"]["sources"].tolist()
    # Pseudo ground truth
    pseudo_gt = results["pseudo_gt"]
    chosen = pseudo_gt["train_00000.jpg"]
    given = (chosen.boxes == boxed.boxes.boxes).all(dim=1)
    assert chosen.scores[given].tolist() == [1.0]
    others = chosen[~given & (chosen.labels == boxed.boxes.labels[0])]
    assert bool((pairwise_iou(others.boxes, boxed.boxes.boxes) < 0.5).all())
    point, label = pointed.marks.points[0][0], int(pointed.marks.labels[0])
    of_class = pseudo_gt["train_00001.jpg"].without_crowd()
    of_class = of_class[of_class.labels == label]
    inside = ((of_class.boxes[:, :2] <= point + 0.5) & (point - 0.5 <= of_class.boxes[:, 2:])).all(dim=1)
    assert int(inside.sum()) == 1
    ((label, count),) = counted.counts.items()
    believed = pseudo_gt["train_00002.jpg"].without_crowd()
    assert int((believed.labels == label).sum()) <= count == 1
    assert torch.equal(pseudo_gt["train_00003.jpg"].boxes, complete.boxes.boxes)
    # A further round knows them too, and the mask is the labelled one
    masks = read_instances(settings.out / "wsis" / "pseudo_masks_train.json").images
    assert len(masks["train_00003.jpg"].instances) == len(complete.boxes)
    instances = masks["train_00000.jpg"].instances
    assert instances.masks is not None and boxed.masks[0] in instances.masks
    # Nothing is made again, and nothing of it where the labels are the same
    stamps = {path: path.stat().st_mtime_ns for path in settings.out.rglob("weights.safetensors")}
    pipeline.run(settings)
    assert {path: path.stat().st_mtime_ns for path in settings.out.rglob("weights.safetensors")} == stamps


def test_keys_change_with_the_labels_and_stay_without_them(tmp_path: Path) -> None:
    arguments = [*toy_run(tmp_path), f"out={tmp_path / 'out'}"]
    labels, _ = partial_labels(tmp_path)
    plain = open_run(load_settings(RunSettings, None, arguments))
    stages = {"clues": plain.settings.clues}
    inputs = {**plain.inputs, "test clues": "True"}
    as_before = fingerprint_of({"stages": stages, "seed": 0, "inputs": inputs, "truth": ""})
    assert plain.key("clues") == as_before
    stages["proposals"] = plain.settings.proposals
    assert plain.key("proposals") == fingerprint_of({"stages": stages, "seed": 0, "inputs": inputs, "truth": ""})
    assert not plain.context.labels and plain.notes == []
    assert fingerprint_of(SplitSettings()) == fingerprint_of({"images": None, "tags": None, "truth": None})
    labelled = open_run(load_settings(RunSettings, None, [*arguments, f"data.train.labels=[{labels}]"]))
    assert labelled.context.train.fingerprint == plain.context.train.fingerprint  # all classes are tags already
    changed = [stage for stage in STAGE_NAMES if labelled.key(stage) != plain.key(stage)]
    assert changed == ["proposals", "wsod", "pseudo_gt", "retrain", "wsis"]
    # What is labelled is no truth, and the truth is no label
    assert all(sample.truth is None for sample in labelled.context.train)
    content = json.loads(labels.read_text(encoding="utf-8"))
    content["images"][3]["complete"] = False
    labels.write_text(json.dumps(content), encoding="utf-8")
    other = open_run(load_settings(RunSettings, None, [*arguments, f"data.train.labels=[{labels}]"]))
    assert all(other.key(stage) != labelled.key(stage) for stage in changed)


def test_test_photos_have_no_labels(tmp_path: Path) -> None:
    arguments = [*toy_run(tmp_path), f"out={tmp_path / 'out'}", f"data.test.labels={tmp_path / 'labels.json'}"]
    with pytest.raises(UserError, match=r"labels of training photos alone, found data\.test\.labels"):
        open_run(load_settings(RunSettings, None, arguments))
