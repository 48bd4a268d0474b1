"""The stage of pseudo ground truth: the store and the file it leaves, and what makes another store."""

import json
from dataclasses import replace

import pytest
import torch

from tests.helpers import context, instances
from weaksam.data.detection_stores import detection_store
from weaksam.stages.pseudo_gt import AdaptiveSettings, GivenPseudoGtSettings, run, run_given
from weaksam.stages.pseudo_gt.settings import Top1Settings
from weaksam.stages.pseudo_gt.stage import _fingerprint
from weaksam.store.store import Store, stage_fingerprint
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.photo_labels import Marks, PhotoLabels
from weaksam.structures.proposals import PROPOSAL_COLUMNS, Proposals


def make_context(out, tags):
    samples = tuple(
        Sample(name, out / name, (100, 120), labels, None, number, sha256=name)
        for number, (name, labels) in enumerate(sorted(tags.items()), start=5)
    )
    train = Dataset("train", ("cat", "dog"), (3, 7), samples)
    return context(out, train)


TAGS = {"a.jpg": (0, 1), "b.jpg": (1,), "c.jpg": (0,)}
APART = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
DETECTIONS = {
    "a.jpg": instances(APART, [0, 0, 0, 1], [0.9, 0.8, 0.1, 0.5]),
    "b.jpg": instances([APART[0], [1, 2, 31, 42]], [0, 1], [0.9, 0.25]),
}  # nothing was found in c.jpg


def test_run_writes_a_row_per_image_and_a_coco_file(tmp_path):
    store = run(make_context(tmp_path, TAGS), AdaptiveSettings(), DETECTIONS)
    rows = {row["image_id"]: row for row in store.rows()}
    assert rows["a.jpg"]["labels"].tolist() == [0, 0, 1]
    assert rows["a.jpg"]["scores"].tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert rows["b.jpg"]["boxes"].tolist() == [[1, 2, 31, 42]]
    assert rows["c.jpg"]["boxes"].shape == (0, 4)
    content = json.loads((tmp_path / "pseudo_gt" / "train.json").read_text())
    assert [image["id"] for image in content["images"]] == [5, 6, 7]  # the image without a box is there
    assert [category["id"] for category in content["categories"]] == [3, 7]
    boxes = [(row["image_id"], row["category_id"], row["bbox"]) for row in content["annotations"]]
    assert boxes[-1] == (6, 7, [1, 2, 30, 40]) and len(boxes) == 4
    assert content["annotations"][-1]["score"] == pytest.approx(0.25)


def test_run_reads_a_store_and_settings_make_another(tmp_path):
    run_context = make_context(tmp_path, TAGS)
    source = detection_store(tmp_path / "wsod", "wsod", "f" * 64, run_context.train, masks=False)
    for part in source.missing_parts():
        source.write(part, (_row(name) for name in part.image_ids))
    source.seal()
    adaptive = run(run_context, AdaptiveSettings(), source)
    top1 = run(run_context, Top1Settings(), source)
    assert adaptive.folder != top1.folder
    assert adaptive["a.jpg"]["labels"].tolist() == [0, 0, 1] and top1["a.jpg"]["labels"].tolist() == [0, 1]
    plain = json.loads((tmp_path / "pseudo_gt" / "train.json").read_text())
    assert len(plain["annotations"]) == 3  # the file is of the last run
    stamp = (adaptive.folder / "manifest.json").stat().st_mtime_ns
    again = run(run_context, AdaptiveSettings(), source)
    assert again.folder == adaptive.folder and (again.folder / "manifest.json").stat().st_mtime_ns == stamp


def test_labels_overrule_the_boxes_and_make_another_store(tmp_path):
    plain = make_context(tmp_path, TAGS)
    store = run(plain, AdaptiveSettings(), DETECTIONS)
    inputs = {"data": plain.train.fingerprint, "detections": _fingerprint(DETECTIONS)}
    assert store.fingerprint == stage_fingerprint(
        "pseudo_gt", AdaptiveSettings(), inputs
    )  # as before there were labels
    labels = {
        "a.jpg": PhotoLabels(instances([[0, 0, 10, 9]], [0]), (None,), counts={0: 1}),
        "b.jpg": PhotoLabels(marks=Marks.of_points(torch.tensor([[65.0, 5]]), torch.tensor([1]))),
        "c.jpg": PhotoLabels(instances([APART[2]], [0]), (None,), complete=True),
    }
    labelled = replace(plain, labels=labels)
    proposals = Store(tmp_path / "p", stage="p", fingerprint="1", image_ids=tuple(TAGS), columns=PROPOSAL_COLUMNS)
    proposals.fill(lambda image_id: Proposals.of(torch.tensor([APART[3]]).float(), torch.tensor([0.6])).as_row())
    known = run(labelled, AdaptiveSettings(), DETECTIONS, proposals=proposals)
    assert known.fingerprint != store.fingerprint
    rows = {
        image_id: list(zip(known[image_id]["boxes"].tolist(), known[image_id]["labels"].tolist(), strict=True))
        for image_id in TAGS
    }
    assert rows["a.jpg"] == [(APART[3], 1), ([0, 0, 10, 9], 0)]  # the count leaves no other of class 0
    assert rows["b.jpg"] == [([1, 2, 31, 42], 1), (APART[3], 1)]  # no detection holds the point
    assert known["b.jpg"]["scores"].tolist() == pytest.approx([0.25, 0.6])
    assert rows["c.jpg"] == [(APART[2], 0)]
    counted = replace(plain, labels={"a.jpg": PhotoLabels(counts={0: 1})})
    zones = run(counted, AdaptiveSettings(), DETECTIONS)
    assert zones["a.jpg"]["crowd"].tolist() == [0, 1, 0]  # in the order of the boxes: 0.9, 0.8 and the other class
    given = run_given(labelled, GivenPseudoGtSettings(path=tmp_path), {**DETECTIONS, "c.jpg": instances([], scores=[])})
    assert given["c.jpg"]["boxes"].tolist() == [APART[2]]


def _row(name):
    detections = DETECTIONS.get(name, instances([], scores=[]))
    return {"image_id": name, "boxes": detections.boxes, "labels": detections.labels, "scores": detections.scores}


def test_other_detections_make_another_store(tmp_path):
    run_context = make_context(tmp_path, TAGS)
    changed = {**DETECTIONS, "c.jpg": instances(APART[:1], [0], [0.5])}
    first, second = run(run_context, AdaptiveSettings(), DETECTIONS), run(run_context, AdaptiveSettings(), changed)
    assert first.fingerprint != second.fingerprint and len(second["c.jpg"]["boxes"]) == 1
