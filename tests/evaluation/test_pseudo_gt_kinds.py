"""Kinds of pseudo boxes and true objects, each made by hand; every box and every object is in exactly one."""

import torch

from tests.helpers import instances, random_objects
from weaksam.evaluation.pseudo_gt import pseudo_gt_quality
from weaksam.evaluation.pseudo_gt_kinds import BOX_KINDS, count_kinds, sort_boxes
from weaksam.structures.instances import Instances

# Two cats side by side and a dog: class 0 at (0, 0, 40, 40) and (40, 0, 80, 40), class 1 at (0, 100, 40, 140)
TRUTH = instances([[0, 0, 40, 40], [40, 0, 80, 40], [0, 100, 40, 140]], [0, 0, 1])


def kind(box, label=0):
    """The kind of a single box."""
    return sort_boxes(TRUTH, instances([box], [label], [0.5])).boxes[0]


def test_each_kind_by_hand():
    assert kind([0, 0, 40, 40]) == "right"
    assert kind([0, 0, 40, 20]) == "right"  # IoU 20 / 40, which is enough
    assert kind([0, 0, 40, 19]) == "part"  # IoU 19 / 40, and all of it lies in the cat
    assert kind([30, 0, 45, 10]) == "wrong_place"  # two thirds of it lie in one cat and one third in the other
    assert kind([0, 0, 80, 40]) == "right"  # IoU 1/2 with each of them
    assert kind([0, 0, 82, 40]) == "group"  # IoU 40 / 82 with each, and both lie in it
    assert kind([0, 0, 69, 60]) == "wrong_place"  # holds one cat and 29 / 40 of the other, too loosely
    assert kind([0, 0, 71, 60]) == "group"  # holds 31 / 40 of the other
    assert kind([0, 100, 40, 140]) == "wrong_class"
    assert kind([0, 100, 40, 140], label=1) == "right"
    assert kind([200, 200, 240, 240]) == "wrong_place"
    assert kind([20, 20, 60, 60], label=1) == "wrong_place"  # the cats are no part of a dog


def test_of_two_boxes_on_an_object_the_better_is_right():
    boxes = instances([[0, 0, 40, 36], [0, 0, 40, 40], [2, 2, 38, 38]], [0, 0, 0], [0.5, 0.9, 0.7])
    kinds = sort_boxes(TRUTH, boxes)
    assert kinds.boxes == ("duplicate", "right", "duplicate") and kinds.met.tolist() == [0, 0, 0]
    assert kinds.objects == ("found", "missed", "missed")
    assert sort_boxes(TRUTH, boxes.replace(scores=None)).boxes == ("right", "duplicate", "duplicate")


def test_boxes_on_difficult_objects_are_ignored_and_the_objects_too():
    truth = TRUTH.replace(difficult=torch.tensor([True, False, False]), crowd=torch.tensor([False, False, True]))
    boxes = instances([[0, 0, 40, 40], [0, 0, 40, 38], [0, 100, 40, 140]], [0, 0, 1], [0.9, 0.8, 0.7])
    kinds = sort_boxes(truth, boxes)
    assert kinds.boxes == ("ignored",) * 3 and kinds.objects == ("ignored", "missed", "ignored")


def test_the_empty_cases():
    nothing = Instances.empty()
    assert sort_boxes(TRUTH, nothing).objects == ("missed",) * 3 and sort_boxes(TRUTH, nothing).boxes == ()
    assert sort_boxes(nothing, TRUTH).boxes == ("wrong_place",) * 3 and sort_boxes(nothing, nothing).objects == ()
    assert sort_boxes(nothing, TRUTH).met.tolist() == [-1] * 3


def test_counts_are_complete_and_agree_with_precision_and_recall():
    truths = {str(seed): random_objects(seed, 5, scored=False) for seed in range(40)}
    marks = {"difficult": torch.tensor([False, False, False, True, False])}
    truths = {name: objects.replace(**marks) for name, objects in truths.items()} | {"none": Instances.empty()}
    pseudo_gt = {name: random_objects(int(name) + 500, 6, scored=True) for name in truths if name != "none"}
    near = {
        name: objects.replace(difficult=None, scores=torch.rand(5)) for name, objects in truths.items() if len(objects)
    }
    pseudo_gt = {name: Instances.cat([of_photo, near[name]]) for name, of_photo in pseudo_gt.items()}
    counts, quality = count_kinds(truths, pseudo_gt, 3), pseudo_gt_quality(truths, pseudo_gt, 3)
    assert sum(map(counts.total, BOX_KINDS)) == sum(map(len, pseudo_gt.values())) == 440
    assert sum(sum(of_kind) for of_kind in counts.objects.values()) == 200
    assert counts.boxes["right"] == counts.objects["found"] == quality.num_hits
    false = sum(counts.total(kind) for kind in BOX_KINDS if kind != "ignored")
    assert false == sum(quality.num_boxes)
    assert all(counts.total(kind) > 0 for kind in BOX_KINDS if kind != "group")
    assert counts.as_dict()["objects"]["ignored"] == 40
