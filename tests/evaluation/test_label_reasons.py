"""Why a box of a training photo is believed, ignored or background."""

import torch

from tests.helpers import instances
from weaksam.evaluation.label_reasons import labelled_boxes
from weaksam.structures.instances import Instances

DETECTIONS = instances(
    [
        (0, 0, 40, 40),  # believed, the best
        (50, 0, 90, 40),  # believed
        (0, 0, 40, 36),  # IoU 0.9 with the first
        (0, 0, 20, 20),  # inside the first, IoU 0.25
        (60, 60, 80, 80),  # ignored
        (0, 60, 20, 80),  # low score
        (0, 0, 9, 9),  # of a class that is no tag
    ],
    [0, 0, 0, 0, 0, 0, 1],
    [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.95],
)
PSEUDO_GT = DETECTIONS[torch.tensor([0, 1, 4])].replace(crowd=torch.tensor([False, False, True]))


def test_every_box_has_its_zone_and_reason():
    boxes = labelled_boxes(PSEUDO_GT, DETECTIONS, (0,))
    assert [(box.zone, box.reason, box.row) for box in boxes] == [
        ("believed", "the best detection of its tag", 0),
        ("believed", "its score passes the rule", 1),
        ("ignored", "the rule leaves it open: neither sure enough to believe nor surely background", 2),
        ("background", "it repeats a believed box", -1),
        ("background", "it is a part of a believed box", -1),
        ("background", "its score does not pass the rule", -1),
        ("background", "its class is no tag of the photo", -1),
    ]
    assert boxes[0].box == (0, 0, 40, 40) and round(boxes[0].score, 3) == 0.9 and boxes[6].label == 1


def test_the_best_background_is_shown_of_tags_first():
    boxes = labelled_boxes(PSEUDO_GT, DETECTIONS, (0,), most_background=1)
    assert [box.reason for box in boxes[3:]] == ["it repeats a believed box"]


def test_boxes_of_a_file_have_no_other_reason():
    (box,) = labelled_boxes(instances([(0, 0, 5, 5)], [0]), None, (0,))
    assert box.reason.startswith("given") and box.score is None and box.zone == "believed"
    moved = PSEUDO_GT.replace(boxes=PSEUDO_GT.boxes + 1)
    assert [box.reason.split(":")[0] for box in labelled_boxes(moved, DETECTIONS, (0,))[:2]] == ["given", "given"]


def test_nothing_gives_nothing():
    assert labelled_boxes(Instances.empty(scored=True), None, ()) == []
    assert labelled_boxes(Instances.empty(scored=True), Instances.empty(scored=True), (0,)) == []
    (box,) = labelled_boxes(Instances.empty(scored=True), instances([(0, 0, 5, 0)], [0], [0.5]), (0,))
    assert box.reason == "it has no area"
