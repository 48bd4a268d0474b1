"""Incomplete labels: of which classes a region teaches nothing, by a plain loop, and the losses by hand."""

import math

import pytest
import torch

from tests.helpers import UNTRAINED_BACKBONE
from tests.models.detectors.toys import OBJECT, regions, target
from weaksam.models.detectors.faster_rcnn import (
    DetectorSettings,
    build_faster_rcnn,
    training_losses,
)
from weaksam.models.detectors.ignored_regions import IGNORED
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, build_mask_rcnn
from weaksam.models.detectors.negatives import NegativeSettings, class_losses, confident_regions, unknown_classes

TINY = DetectorSettings(short_side=64, long_side=96, fpn_channels=16, representation=32, rpn_pre_nms=60)
TAGS, DETECTIONS = NegativeSettings(rule="tags"), NegativeSettings(rule="detections")


def shared(first, second) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def size(box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(first, second) -> float:
    common = shared(first, second)
    return common / (size(first) + size(second) - common) if common else 0.0


def plain_unknown(region, photo, settings) -> list[bool]:
    """`unknown_classes` of one region, class by class and box by box."""
    boxes = list(zip(photo["boxes"].tolist(), photo["labels"].tolist(), strict=True))
    tags = photo["tags"].tolist()
    overlaps = [iou(region, box) for box, label in boxes if label != IGNORED]
    in_ignored = max([iou(region, box) for box, label in boxes if label == IGNORED], default=0.0) > max(
        overlaps, default=0.0
    )
    partly = any(overlap >= settings.partly_iou and overlap > 0 for overlap in overlaps)
    near = settings.rule != "all" and settings.near_iou <= max(overlaps, default=0.0) < 0.5 and any(overlaps)
    unknown = []
    for number, tagged in enumerate(tags):
        detected = any(
            label == number
            and (
                (iou(region, box) >= settings.partly_iou and iou(region, box) > 0)
                or shared(region, box) > 0.5 * size(region)
            )
            for box, label in zip(photo["doubtful_boxes"].tolist(), photo["doubtful_labels"].tolist(), strict=True)
        )
        doubtful = {"all": False, "tags": tagged, "detections": tagged and detected}[settings.rule] and not partly
        ignored = settings.rule != "all" and in_ignored and (tagged or not any(tags))
        confident = "confident_boxes" in photo and region in photo["confident_boxes"].tolist() and tagged
        unknown.append(doubtful or ignored or confident or (near and tagged))
    return unknown


REGIONS = [
    [0, 0, 10, 4],  # IoU .4 with the object: no object, for certain
    [9, 0, 19, 10],  # .05
    [40, 40, 50, 50],  # far from everything
    [20, 0, 30, 10],  # the doubtful box
    [22, 2, 24, 4],  # inside it: IoU .04, share 1
    [28, 0, 60, 30],  # meets it at IoU .02, share .02
]


def test_classes_without_a_tag_are_certain_negatives_everywhere():
    photo = target([OBJECT], [0], tags=[0, 2])
    unknown = unknown_classes(regions(*REGIONS), photo, TAGS)
    assert not unknown[:, 1].any()
    assert unknown[:, 0].tolist() == unknown[:, 2].tolist() == [False, True, True, True, True, True]


def test_tagged_classes_are_unknown_only_where_the_weak_detector_detects_them():
    photo = target([OBJECT], [0], tags=[0, 2], doubtful=[[20, 0, 30, 10], [0, 0, 10, 4]], of_class=[2, 0])
    unknown = unknown_classes(regions(*REGIONS), photo, DETECTIONS)
    assert not unknown[:, :2].any()  # the detection of class 0 lies where the object is partly met
    assert unknown[:, 2].tolist() == [False, False, False, True, True, False]


def test_photos_without_tags_are_background_and_a_teacher_that_finds_nothing_leaves_it_so():
    where = regions(*REGIONS)
    assert not unknown_classes(where, target([], [], tags=[]), TAGS).any()
    assert not unknown_classes(where, target([OBJECT], [0], tags=[0]), DETECTIONS).any()
    assert unknown_classes(regions(), target([OBJECT], [0], tags=[0]), TAGS).shape == (0, 3)
    assert not unknown_classes(where, target([OBJECT], [0], tags=[0]), NegativeSettings()).any()


def test_a_photo_whose_every_box_is_ignored_still_says_what_is_not_there():
    whole = target([[0, 0, 100, 100]], [0], tags=[0], crowd=[True])
    for settings in (TAGS, DETECTIONS):
        assert unknown_classes(regions(*REGIONS), whole, settings).tolist() == [[True, False, False]] * 6
    untagged = target([[0, 0, 100, 100]], [0], tags=[], crowd=[True])
    assert unknown_classes(regions(*REGIONS), untagged, TAGS).all()


@pytest.mark.parametrize("rule", ["all", "tags", "detections"])
def test_the_rule_equals_a_plain_loop(rule):
    generator = torch.Generator().manual_seed(0)

    def drawn(num: int) -> list[list[float]]:
        corners = torch.randint(0, 60, (num, 2), generator=generator)
        sides = torch.randint(1, 40, (num, 2), generator=generator)
        return torch.cat([corners, corners + sides], dim=1).tolist()

    seen = set()
    for photo_number in range(20):
        num, of_class = photo_number % 4, torch.randint(0, 3, (3,), generator=generator).tolist()
        crowd = (torch.rand(num, generator=generator) < 0.4).tolist()
        photo = target(
            drawn(num), [0, 2, 0][:num], [[0, 2], []][photo_number % 5 == 0], crowd or None, drawn(3), of_class
        )
        boxes = regions(*drawn(30))
        if photo_number % 3 == 0:
            photo["confident_boxes"] = torch.cat([boxes[:2], torch.full((1, 4), torch.nan)])
        settings = NegativeSettings(
            rule=rule, partly_iou=0.11 * (photo_number % 3), near_iou=[0.5, 0.23][photo_number % 2]
        )
        unknown = unknown_classes(boxes, photo, settings).tolist()
        assert unknown == [plain_unknown(box, photo, settings) for box in boxes.tolist()]
        seen |= {value for row in unknown for value in row}
    assert seen == {True, False}


def test_class_losses_by_hand():
    """Probabilities of background and two classes: 0.5, 0.25, 0.25."""
    logits = torch.tensor([[2.0, 1.0, 1.0]]).log().expand(4, 3)
    unknown = torch.tensor([[False, False], [True, False], [True, True], [True, True]])
    losses = class_losses(logits, torch.tensor([0, 0, 0, 1]), unknown)
    assert losses.tolist() == pytest.approx([math.log(2), -math.log(0.75), 0, math.log(4)])
    moved = logits.clone().requires_grad_()
    class_losses(moved, torch.tensor([0, 0, 0, 1]), unknown)[1].backward()
    # Only "not the second class" is taught: its logit falls, the others rise by their share of what is possible
    assert moved.grad[1].tolist() == pytest.approx([0.5 - 2 / 3, 0.25 - 1 / 3, 0.25])
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 4), torch.arange(9) % 4
    known = class_losses(logits, labels, torch.zeros(9, 3, dtype=torch.bool))
    torch.testing.assert_close(known, torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


def test_confident_regions_overlap_no_box_and_lie_in_a_tagged_photo():
    where = regions(OBJECT, [0, 0, 10, 2], [40, 40, 50, 50], [60, 0, 70, 10])  # IoU 1, .2, 0, 0
    scores, settings = torch.tensor([0.9, 0.9, 0.9, 0.8]), NegativeSettings()
    photo = target([OBJECT], [0], tags=[0])
    assert confident_regions(where, scores, photo, 0.8, settings).tolist() == [False, True, True, False]
    assert not confident_regions(where, scores, photo, None, settings).any()
    assert not confident_regions(where, scores, target([], [], tags=[]), 0.8, settings).any()
    assert confident_regions(where, scores, target([], [], tags=[1]), 0.8, settings).tolist() == [True] * 3 + [False]
    begins = [NegativeSettings(confident=0.8, start_share=0.5).confident_from(step, 4) for step in range(4)]
    assert begins == [None, None, 0.8, 0.8]


def test_anchors_of_which_a_class_is_unknown_teach_nothing():
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 3)
    photo = target([OBJECT], [0], tags=[0], doubtful=[[20, 0, 30, 10]], of_class=[0])
    where, scores = regions([0, 0, 10, 9], *REGIONS), torch.tensor([0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1])
    assigned = torch.tensor([1.0, 0, 0, 0, 0, 0, 0])

    def known(settings: NegativeSettings, confident: float | None = None) -> list[float]:
        model.rpn.negatives, model.rpn.confident = settings, confident
        (labels,) = model.rpn._known_labels([assigned], [where], [scores], [photo])
        return labels.tolist()

    assert known(NegativeSettings()) == assigned.tolist()
    assert known(TAGS) == [1, 0, -1, -1, -1, -1, -1]
    assert known(DETECTIONS) == [1, 0, 0, 0, -1, -1, 0]
    assert known(NegativeSettings(rule="tags", anchors=False)) == assigned.tolist()
    assert known(NegativeSettings(), 0.8) == [1, 0, -1, -1, 0, 0, 0]  # IoU .4, .05 and 0


@pytest.mark.parametrize("build", [build_faster_rcnn, build_mask_rcnn])
def test_a_step_teaches_what_the_rule_says(build):
    """Far from every box, of the classes of a photo only those without a tag get a gradient against them."""
    torch.manual_seed(0)
    settings = MaskDetectorSettings(**TINY.model_dump(), mask_channels=16, mask_layers=1)
    model = build(UNTRAINED_BACKBONE, settings, 3)
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    photo = target([[0, 0, 96, 64]], [0], tags=[0, 1], crowd=[True])
    if build is build_mask_rcnn:
        photo["masks"] = masks.to(torch.uint8)
    bias = model.roi_heads.box_predictor.cls_score.bias
    model.rpn.negatives = model.roi_heads.negatives = TAGS
    losses = training_losses(model, [torch.rand(3, 64, 96)], [photo])
    losses["loss_classifier"].backward()
    assert bias.grad[3] > 0 and all(value <= 0 for value in bias.grad[:3])
    assert losses["loss_objectness"].item() == 0


def test_confident_proposals_reach_the_heads():
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 3)
    photo = target([], [], tags=[0, 1, 2])
    losses = []
    for confident in (None, 0.0):  # every objectness is above 0
        model.rpn.confident = confident
        losses.append(training_losses(model, [torch.rand(3, 64, 96)], [dict(photo)]))
    assert losses[0]["loss_classifier"] > 0 and losses[0]["loss_objectness"] > 0
    assert losses[1]["loss_classifier"].item() == pytest.approx(0, abs=1e-6)
    assert losses[1]["loss_objectness"].item() == 0
    model.rpn.confident = 0.0
    untagged = training_losses(model, [torch.rand(3, 64, 96)], [target([], [], tags=[])])
    assert untagged["loss_classifier"] > 0 and untagged["loss_objectness"] > 0


def test_where_a_reviewer_rejected_a_box_its_class_is_certainly_not():
    settings = NegativeSettings(rule="tags")
    target = {
        "tags": torch.tensor([True, True, False]),
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "rejected_boxes": torch.tensor([[0.0, 0, 10, 10]]),
        "rejected_labels": torch.tensor([1]),
    }
    regions = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 4], [50, 50, 60, 60]])
    assert unknown_classes(regions, target, settings).tolist() == [
        [True, False, False],  # IoU is exactly a half
        [True, True, False],
        [True, True, False],
    ]
    nothing = {**target, "rejected_boxes": torch.zeros(0, 4), "rejected_labels": torch.zeros(0, dtype=torch.int64)}
    assert unknown_classes(regions, nothing, settings)[:, 1].all()
