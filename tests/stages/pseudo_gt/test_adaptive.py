"""Pseudo ground truth: the cases of the specification, the store and the file the stage leaves."""

import json

import pytest
import torch

from tests import helpers
from weaksam.config import UserError
from weaksam.data.detection_stores import detection_store
from weaksam.stages.pseudo_gt import PseudoGtSettings, adaptive_pseudo_gt, run, top1_pseudo_gt
from weaksam.stages.pseudo_gt.adaptive import drop_contained, normalised_scores
from weaksam.structures.boxes import pairwise_ioa
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances


def detections(*rows):
    """One detection per row: score, label, box."""
    scores, labels, boxes = zip(*rows, strict=True) if rows else ((), (), ())
    return Instances(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float32),
    )


def apart(number):
    """A 10 x 10 box that meets no other ``apart`` box."""
    return [20 * number, 0, 20 * number + 10, 10]


def kept_scores(found, tags=(0,), **settings):
    kept = adaptive_pseudo_gt(found, tags, PseudoGtSettings(**settings))
    return pytest.approx(kept.scores.tolist())


def test_scores_are_min_max_normalised():
    # .20 .12 .05 .01 -> 1, .58, .21, 0
    assert normalised_scores(torch.tensor([0.20, 0.12, 0.05, 0.01])).tolist() == pytest.approx(
        [1, 11 / 19, 4 / 19, 0], abs=1e-6
    )
    found = detections(*((score, 0, apart(n)) for n, score in enumerate([0.20, 0.12, 0.05, 0.01])))
    assert kept_scores(found) == [0.20, 0.12]
    # .9 .5 .45 -> 1, .11, 0: only the best, where division alone would keep all three
    found = detections(*((score, 0, apart(n)) for n, score in enumerate([0.9, 0.5, 0.45])))
    assert kept_scores(found) == [0.9]
    assert kept_scores(found, min_score_norm=0.1) == [0.9, 0.5]


def test_equal_scores_are_all_kept():
    assert normalised_scores(torch.tensor([0.3, 0.3, 0.3])).tolist() == [1, 1, 1]
    found = detections(*((0.001, 0, apart(n)) for n in range(3)))
    assert len(adaptive_pseudo_gt(found, [0])) == 3


def test_single_box_is_kept_with_its_own_score():
    assert kept_scores(detections((0.0625, 0, apart(0)))) == [0.0625]


def test_of_two_near_identical_boxes_the_better_remains():
    # Each covers 90 % or more of the other: the released code deletes both and the class is gone
    small, large = [0, 0, 10, 9], [0, 0, 10, 10]
    for better, worse in ((small, large), (large, small)):
        for rows in ([(0.9, 0, better), (0.8, 0, worse)], [(0.8, 0, worse), (0.9, 0, better)]):
            kept = adaptive_pseudo_gt(detections(*rows, (0.0, 0, apart(3))), [0])
            assert kept.boxes.tolist() == [better]
    twins = detections((0.5, 0, small), (0.5, 0, small))
    assert len(adaptive_pseudo_gt(twins, [0])) == 1


def test_small_box_inside_a_large_one_goes_whatever_its_score():
    found = detections((0.9, 0, [50, 50, 70, 70]), (0.5, 0, [0, 0, 200, 200]), (0.01, 0, [500, 0, 510, 10]))
    assert kept_scores(found) == [0.5]
    # Alone, the two normalise to 1 and 0: the large one goes first, by its score
    assert kept_scores(found[torch.tensor([0, 1])]) == [0.9]


def test_containment_is_judged_within_a_class():
    found = detections((0.9, 0, [50, 50, 70, 70]), (0.9, 1, [0, 0, 200, 200]))
    assert adaptive_pseudo_gt(found, [0, 1]).labels.tolist() == [0, 1]


def test_containment_share_at_the_threshold():
    # 85 of its 100 pixels lie inside: dropped at 0.85, kept at 0.86
    found = detections((0.9, 0, [0, 0, 100, 100]), (0.9, 0, [91.5, 20, 101.5, 30]))
    assert len(adaptive_pseudo_gt(found, [0], PseudoGtSettings(containment=0.85))) == 1
    assert len(adaptive_pseudo_gt(found, [0], PseudoGtSettings(containment=0.86))) == 2


def test_box_dropped_by_a_dropped_box_stays():
    # The middle lies in the large one, the small one in the middle only (16 of 20 columns in the large one)
    large, middle, small = [0, 0, 100, 100], [60, 0, 104, 40], [84, 0, 104, 10]
    shares = pairwise_ioa(torch.tensor([middle, small]).float(), torch.tensor([large, middle]).float())
    assert shares[0, 0] >= 0.85 and shares[1, 1] >= 0.85 and shares[1, 0] < 0.85
    assert drop_contained(torch.tensor([small, middle, large]).float(), 0.85).tolist() == [0, 2]


def test_input_order_does_not_matter():
    rows = [(0.001, 0, apart(0)), (0.9, 0, apart(1)), (0.7, 0, apart(2)), (0.6, 1, apart(3)), (0.1, 1, apart(4))]
    wanted = adaptive_pseudo_gt(detections(*rows), [0, 1])
    assert wanted.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])  # the code kept 0.001, as it came first
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        again = adaptive_pseudo_gt(detections(*rows)[torch.tensor(order)], [0, 1])
        assert torch.equal(again.boxes, wanted.boxes) and torch.equal(again.labels, wanted.labels)


def test_only_tags_get_boxes_and_a_tag_without_detection_gets_none():
    found = detections((0.9, 0, apart(0)), (0.8, 1, apart(1)))
    assert adaptive_pseudo_gt(found, [1, 2]).labels.tolist() == [1]
    assert top1_pseudo_gt(found, [1, 2]).labels.tolist() == [1]
    for make in (adaptive_pseudo_gt, top1_pseudo_gt):
        assert len(make(found, [])) == 0
        assert len(make(Instances.empty(), [0, 1])) == 0


def test_boxes_without_area_are_never_pseudo_ground_truth():
    found = detections((0.9, 0, [5, 5, 5, 9]), (0.2, 0, apart(1)))
    assert kept_scores(found) == [0.2]
    assert top1_pseudo_gt(found, [0]).scores.tolist() == pytest.approx([0.2])


def test_every_tag_with_a_detection_keeps_a_box():
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        corners = torch.rand(12, 2, generator=generator) * 10
        boxes = torch.cat([corners, corners + 1 + torch.rand(12, 2, generator=generator) * 30], dim=1)
        labels = torch.randint(0, 3, (12,), generator=generator)
        found = Instances(boxes, labels, torch.rand(12, generator=generator))
        for containment in (0.2, 0.85):
            kept = adaptive_pseudo_gt(found, [0, 1, 2], PseudoGtSettings(containment=containment))
            assert set(kept.labels.tolist()) == set(labels.tolist())
            inside = pairwise_ioa(kept.boxes.double(), kept.boxes.double()) >= containment
            same = kept.labels[:, None] == kept.labels
            assert not (inside & same & ~torch.eye(len(kept), dtype=torch.bool)).any()


def test_top1_keeps_the_first_best_of_each_tag():
    found = detections((0.5, 1, apart(0)), (0.7, 0, apart(1)), (0.7, 0, apart(2)), (0.6, 1, apart(3)))
    kept = top1_pseudo_gt(found, [1, 0])
    assert kept.boxes.tolist() == [apart(1), apart(3)] and kept.labels.tolist() == [0, 1]


def test_detections_need_scores():
    with pytest.raises(UserError, match="score"):
        adaptive_pseudo_gt(detections((0.5, 0, apart(0))).replace(scores=None), [0])


def make_context(out, tags):
    samples = tuple(
        Sample(name, out / name, (100, 120), labels, None, number, sha256=name)
        for number, (name, labels) in enumerate(sorted(tags.items()), start=5)
    )
    train = Dataset("train", ("cat", "dog"), (3, 7), samples)
    return helpers.context(out, train)


TAGS = {"a.jpg": (0, 1), "b.jpg": (1,), "c.jpg": (0,)}
FOUND = {
    "a.jpg": detections((0.9, 0, apart(0)), (0.8, 0, apart(1)), (0.1, 0, apart(2)), (0.5, 1, apart(3))),
    "b.jpg": detections((0.9, 0, apart(0)), (0.25, 1, [1, 2, 31, 42])),
}  # nothing was found in c.jpg


def test_run_writes_a_row_per_image_and_a_coco_file(tmp_path):
    store = run(make_context(tmp_path, TAGS), PseudoGtSettings(), FOUND)
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
    context = make_context(tmp_path, TAGS)
    source = detection_store(tmp_path / "wsod", "wsod", "f" * 64, context.train, masks=False)
    for part in source.missing_parts():
        source.write(part, (_row(name) for name in part.image_ids))
    source.seal()
    adaptive = run(context, PseudoGtSettings(), source)
    top1 = run(context, PseudoGtSettings(method="top1"), source)
    assert adaptive.folder != top1.folder
    assert adaptive["a.jpg"]["labels"].tolist() == [0, 0, 1] and top1["a.jpg"]["labels"].tolist() == [0, 1]
    plain = json.loads((tmp_path / "pseudo_gt" / "train.json").read_text())
    assert len(plain["annotations"]) == 3  # the file is of the last run
    stamp = (adaptive.folder / "manifest.json").stat().st_mtime_ns
    again = run(context, PseudoGtSettings(), source)
    assert again.folder == adaptive.folder and (again.folder / "manifest.json").stat().st_mtime_ns == stamp


def _row(name):
    found = FOUND.get(name, detections())
    return {"image_id": name, "boxes": found.boxes, "labels": found.labels, "scores": found.scores}


def test_other_detections_make_another_store(tmp_path):
    context = make_context(tmp_path, TAGS)
    changed = {**FOUND, "c.jpg": detections((0.5, 0, apart(0)))}
    first, second = run(context, PseudoGtSettings(), FOUND), run(context, PseudoGtSettings(), changed)
    assert first.fingerprint != second.fingerprint and len(second["c.jpg"]["boxes"]) == 1
