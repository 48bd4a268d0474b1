"""Decisions of a review applied to pseudo ground truth, by hand."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers import instances
from weaksam.config import UserError
from weaksam.stages.pseudo_gt import NO_REVIEW, read_review
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

PHOTOS = Dataset(
    "train",
    ("cat", "dog"),
    (1, 2),
    tuple(Sample(name, Path(name), (50, 100), (0, 1), None, number) for number, name in enumerate("ab")),
)
BOXES = instances(
    [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)], [0, 0, 1, 0], [0.9, 0.8, 0.7, 0.6]
)
PSEUDO_GT = {"a": BOXES.replace(crowd=torch.tensor([False, False, False, True])), "b": Instances.empty(scored=True)}


def decision(row, verdict, box=None, label=None, image_id="a", **more):
    box = BOXES.boxes[row].tolist() if box is None else box
    label = PHOTOS.classes[BOXES.labels[row]] if label is None else label
    return {"image_id": image_id, "row": row, "box": box, "label": label, "decision": verdict, **more}


def review(folder, *files):
    """The review of lists of decisions, a file each."""
    paths = []
    for number, rows in enumerate(files):
        paths.append(folder / f"{number}.json")
        content = {"format": "weaksam-review", "version": 1, "run": {"pseudo_gt": "k"}, "decisions": rows}
        paths[-1].write_text(json.dumps(content))
    return read_review(paths, PHOTOS)


def test_every_decision_has_its_effect(tmp_path):
    made = review(
        tmp_path,
        [
            decision(0, "reject"),
            decision(1, "relabel", to_label="dog"),
            decision(2, "redraw", to_box=[40, 0, 60, 20]),
            decision(3, "accept"),
        ],
    )
    boxes = made.apply(PSEUDO_GT, PHOTOS)["a"]
    assert boxes.boxes.tolist() == [[20, 0, 30, 10], [40, 0, 60, 20], [60, 0, 70, 10]]
    assert boxes.labels.tolist() == [1, 1, 0] and boxes.scores.tolist() == [1, 1, 1]
    assert boxes.crowd.tolist() == [False] * 3  # the accepted one was a region to ignore
    certain, rejected = made.certain(PHOTOS)["a"], made.rejected(PHOTOS)["a"]
    assert torch.equal(certain.boxes, boxes.boxes) and torch.equal(certain.labels, boxes.labels)
    assert rejected.boxes.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]] and rejected.labels.tolist() == [0, 0]
    assert set(made.certain(PHOTOS)) == {"a"}


def test_what_is_not_decided_stays(tmp_path):
    boxes = review(tmp_path, [decision(0, "accept")]).apply(PSEUDO_GT, PHOTOS)
    assert boxes["a"].scores.tolist() == pytest.approx([1, 0.8, 0.7, 0.6]) and boxes["a"].crowd.tolist()[3]
    assert len(boxes["b"]) == 0 and NO_REVIEW.apply(PSEUDO_GT, PHOTOS) == PSEUDO_GT and NO_REVIEW.fingerprint == ""
    plain = {"a": Instances(BOXES.boxes, BOXES.labels)}
    assert review(tmp_path, [decision(0, "reject")]).apply(plain, PHOTOS)["a"].crowd is None


def test_a_second_review_is_about_what_the_first_left(tmp_path):
    first = [decision(0, "reject"), decision(1, "redraw", to_box=[20, 0, 30, 20])]
    second = [decision(0, "reject", [20, 0, 30, 20], "cat")]  # the redrawn box is now the first
    made = review(tmp_path, first, second)
    assert made.apply(PSEUDO_GT, PHOTOS)["a"].boxes[:, 0].tolist() == [40, 60]
    assert made.certain(PHOTOS) == {} and len(made.rejected(PHOTOS)["a"]) == 2
    assert made.fingerprint != review(tmp_path, first).fingerprint


def test_a_round_keeps_what_is_certain(tmp_path):
    made = review(tmp_path, [decision(0, "reject"), decision(2, "accept")])
    new = instances([(0, 0, 10, 9), (40, 0, 50, 9), (0, 0, 10, 9), (80, 0, 90, 10)], [0, 1, 1, 0], [0.5] * 4)
    boxes = made.of_round({"a": new, "b": new}, PHOTOS)
    # The rejected cat goes, but a dog may be there; the accepted dog takes the place of the new one
    assert boxes["a"].boxes.tolist() == [[0, 0, 10, 9], [80, 0, 90, 10], [40, 0, 50, 10]]
    assert boxes["a"].labels.tolist() == [1, 0, 1] and torch.equal(boxes["b"].boxes, new.boxes)
    assert NO_REVIEW.of_round({"a": new}, PHOTOS)["a"] is new


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (decision(0, "accept", image_id="c"), "wanted decisions on training photos"),
        (decision(0, "accept", image_id="b"), "wanted decisions on the 0 boxes of b"),
        (decision(0, "accept") | {"row": 9}, "wanted decisions on the 4 boxes of a"),
        (decision(0, "accept", [0, 0, 10, 10.5]), "found another box"),
        (decision(0, "accept", label="dog"), "found another box"),
        (decision(0, "accept", label="cow"), "wanted a class of the run"),
        (decision(0, "redraw", to_box=[-1, 0, 10, 10]), "inside its photo of 100 x 50"),
        (decision(0, "redraw", to_box=[0, 0, 10, 51]), "inside its photo of 100 x 50"),
        (decision(0, "redraw", to_box=[0, 0, 0.5, 10]), "at least a pixel"),
    ],
)
def test_decisions_about_something_else_are_one_sentence(tmp_path, row, said):
    with pytest.raises(UserError, match=said):
        review(tmp_path, [row]).apply(PSEUDO_GT, PHOTOS)


def test_a_class_that_is_no_tag_is_refused(tmp_path):
    photos = Dataset("train", PHOTOS.classes, (1, 2), (Sample("a", Path("a"), (50, 100), (0,), None, 1),))
    with pytest.raises(UserError, match=r"wanted a tag of its photo \(cat\)"):
        review(tmp_path, [decision(0, "relabel", to_label="dog")]).apply(PSEUDO_GT, photos)


def test_corners_as_a_report_states_them_are_the_boxes(tmp_path):
    boxes = {"a": BOXES.replace(boxes=BOXES.boxes + 0.1234)}
    stated = [round(value, 2) for value in boxes["a"].boxes[0].tolist()]
    assert len(review(tmp_path, [decision(0, "accept", stated)]).apply(boxes, PHOTOS)["a"]) == 4
