"""Zones of pseudo ground truth: presence by hand, what is ignored and what is not, stores, files and empty cases."""

import json

import pytest
import torch

from tests.helpers import context, instances
from weaksam.data.detection_stores import instances_of
from weaksam.engine.log import RunLog
from weaksam.evaluation.presence import tag_presence
from weaksam.stages.pseudo_gt import choose_all, read_given, run, run_given
from weaksam.stages.pseudo_gt.settings import AdaptiveSettings, GivenPseudoGtSettings, Top1Settings
from weaksam.stages.pseudo_gt.zones import with_ignored
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

FAR = [[100 * n, 300, 100 * n + 10, 310] for n in range(9)]


def scored(*scores, label=0):
    """Detections of one class that do not meet."""
    return instances(FAR[: len(scores)], [label] * len(scores), list(scores))


# Two photos with the tag 0, four without: a detection with the tag weighs 1/2, another 1/4
TAGS = {"a": (0,), "b": (0,), "c": (), "d": (), "e": (), "f": ()}
FOUND = {"a": scored(0.9, 0.2), "b": scored(0.8, 0.2), "c": scored(0.2), "d": scored(0.2, 0.1), "e": scored(0.1)}


def test_presence_by_hand():
    (presence,) = tag_presence(FOUND, TAGS, 1)
    # At 0.1: no detection with the tag. At 0.2: 2/2 with it against 2/4 without, so 1 - 0.5 / 1. Above: all with it
    asked = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.5, 0.8, 0.9, 1.0])
    assert presence.of(asked).tolist() == pytest.approx([0, 0, 0, 0.5, 0.5, 1, 1, 1], abs=1e-6)


def test_presence_never_falls_with_the_score():
    # A detection of .95 without the tag: .8, .9 and .95 become one step of 2/2 against 1/4
    found = {**FOUND, "f": scored(0.95)}
    (presence,) = tag_presence(found, TAGS, 1)
    assert presence.of(torch.tensor([0.2, 0.8, 0.95])).tolist() == pytest.approx([0.5, 0.75, 0.75])


def test_tags_that_cannot_tell_give_no_steps():
    everywhere = {image_id: (0,) for image_id in TAGS}
    for tags, found in ((everywhere, FOUND), ({image_id: () for image_id in TAGS}, FOUND), (TAGS, {})):
        (presence,) = tag_presence(found, tags, 1)
        assert presence.of(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 0, 0]
    assert tag_presence(FOUND, {}, 2)[1].of(torch.zeros(0)).tolist() == []


def zones(believed, detections, tags=(0,), ignore_from=0.7, presence=None):
    """The ignored boxes of a photo, best first; scores are their own presence unless ``presence`` says otherwise."""
    steps = presence or tag_presence({"a": scored(*(n / 10 for n in range(1, 10)))}, {"a": (0,), "b": ()}, 1)
    boxes = with_ignored(believed, detections, tags, steps * 2, ignore_from)
    assert not boxes.crowd[: len(believed)].any() and boxes.crowd[len(believed) :].all()
    return boxes.boxes[len(believed) :].tolist()


OBJECT = [0, 0, 40, 40]
PART, GROUP, LIKE, BESIDE = [2, 2, 20, 20], [0, 0, 90, 40], [0, 0, 44, 44], [60, 0, 90, 40]
BELIEVED = instances([OBJECT], [0], [0.9])


def test_what_no_believed_box_stands_for_is_ignored():
    detections = instances([PART, GROUP, OBJECT, BESIDE], [0] * 4, [0.5, 0.3, 0.9, 0.4])
    assert zones(BELIEVED, detections) == [BESIDE, GROUP]  # the part stays background, the group does not
    assert zones(BELIEVED, detections[torch.tensor([2])]) == []
    held = instances([LIKE], [0], [0.5])
    assert zones(BELIEVED, held) == [LIKE]  # it holds the believed box, and may be the whole of a part
    shifted = instances([[6, 0, 46, 40]], [0], [0.5])  # IoU 34 / 46
    assert zones(BELIEVED, shifted) == []
    assert zones(BELIEVED, instances([OBJECT, BESIDE], [1, 1], [0.5, 0.5]), tags=(0,)) == []  # no tag
    assert zones(BELIEVED, instances([OBJECT, BESIDE], [1, 1], [0.5, 0.5]), tags=(0, 1)) == [BESIDE]


def test_nothing_is_ignored_below_the_limit_or_without_area():
    (presence,) = tag_presence(FOUND, TAGS, 1)
    detections = instances([BESIDE, GROUP, [5, 5, 5, 9]], [0] * 3, [0.2, 0.85, 0.9])
    assert zones(BELIEVED, detections, presence=[presence], ignore_from=0.6) == [GROUP]
    assert zones(BELIEVED, detections, presence=[presence], ignore_from=0.5) == [GROUP, BESIDE]
    assert zones(BELIEVED, Instances.empty(scored=True)) == [] and zones(BELIEVED, detections, tags=()) == []


def test_a_photo_may_have_ignored_boxes_alone_or_one_over_all_of_it():
    whole = instances([[0, 0, 500, 400]], [0], [0.9])
    assert zones(Instances.empty(scored=True), whole) == [[0, 0, 500, 400]]
    boxes = choose_all({"a": scored(0.9), "b": scored(0.9)}, {"a": (0,), "b": ()}, 1, AdaptiveSettings(ignore_from=0.5))
    assert len(boxes["a"]) == 1 and not bool(boxes["a"].crowd.any()) and len(boxes["b"]) == 0


def make_context(out):
    samples = tuple(
        Sample(f"{name}.jpg", out / name, (600, 900), labels, None, number, sha256=name)
        for number, (name, labels) in enumerate(TAGS.items(), start=1)
    )
    return context(out, Dataset("train", ("cat", "dog"), (3, 7), samples), log=RunLog(out / "log.jsonl"))


def test_the_store_and_the_file_say_what_is_ignored_and_the_file_is_taken_again(tmp_path, capfd):
    found = {f"{name}.jpg": of_photo for name, of_photo in FOUND.items()}
    run_context = make_context(tmp_path)
    boxes = instances_of(run(run_context, Top1Settings(ignore_from=0.4), found))
    assert boxes["a.jpg"].crowd.tolist() == [False, True] and boxes["c.jpg"].crowd.tolist() == []
    content = json.loads((tmp_path / "pseudo_gt" / "train.json").read_text())
    assert [(row["image_id"], row["iscrowd"]) for row in content["annotations"]] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged[-1]["boxes"] == 2 and logged[-1]["ignored"] == 2 and logged[-1]["images_without_box"] == 4

    given = GivenPseudoGtSettings(path=tmp_path / "pseudo_gt" / "train.json")
    again = instances_of(run_given(run_context, given, read_given(given, run_context.train)))
    assert again["a.jpg"].crowd.tolist() == [False, True]
    assert torch.equal(again["b.jpg"].boxes, boxes["b.jpg"].boxes)
    assert "without any box" not in capfd.readouterr().err


def test_without_ignoring_the_store_is_that_of_before(tmp_path):
    found = {f"{name}.jpg": of_photo for name, of_photo in FOUND.items()}
    store = run(make_context(tmp_path), Top1Settings(), found)
    assert "crowd" not in store["a.jpg"] and instances_of(store)["a.jpg"].crowd is None


def test_a_class_that_has_a_tag_and_no_box_is_named(tmp_path, capfd):
    run(make_context(tmp_path), AdaptiveSettings(ignore_from=0.5), {"a.jpg": scored(0.9, label=1)})
    assert "tagged classes without any box, which the detector will not learn: cat" in capfd.readouterr().err
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged[-1]["classes_without_box"] == "cat"
