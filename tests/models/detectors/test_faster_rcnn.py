"""Faster R-CNN: targets and frames by hand, ignored regions, and torchvision's own numbers."""

import pytest
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import Matcher

from tests.helpers import UNTRAINED_BACKBONE, instances
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import (
    DetectorSettings,
    IncompleteLabelsMatcher,
    build_faster_rcnn,
    detect,
    instances_from,
    target_of,
    training_losses,
)
from weaksam.structures.instances import Instances

TINY = DetectorSettings(
    short_side=64,
    long_side=96,
    fpn_channels=16,
    representation=32,
    trainable_layers=6,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    min_score=0.0,
)


def test_targets_count_labels_from_one_and_leave_out_slivers():
    target = target_of(instances([[0, 0, 10, 10], [5, 5, 5.5, 30]], [0, 1]), torch.ones(2, 40, 40, dtype=torch.bool))
    assert target["boxes"].tolist() == [[0, 0, 10, 10]]
    assert target["labels"].tolist() == [1]
    assert target["masks"].shape == (1, 40, 40) and target["masks"].dtype == torch.uint8


def test_detections_return_to_the_original_frame_and_labels_to_zero():
    raw = {
        "boxes": torch.tensor([[10.0, 20.0, 100.0, 50.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.5]),
    }
    detections = instances_from(raw, from_size=(50, 100), to_size=(100, 300))
    assert detections.boxes.tolist() == [[30, 40, 300, 100]]
    assert detections.labels.tolist() == [1]


def test_a_photo_without_boxes_has_finite_losses():
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2)
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    targets = [target_of(Instances.empty()), target_of(instances([[8, 8, 40, 40]], [1]))]
    losses = training_losses(model, images, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert float(model.roi_heads.box_head.fc6.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("pyramid", "name", "sides"),
    [
        ("short", "resnet50", [[32], [64], [128], [256]]),
        ("short", "vgg16", [[32, 64], [64, 128], [128, 256]]),
        ("full", "resnet50", [[32], [64], [128], [256], [512]]),
        ("full", "vgg16", [[32, 64], [64, 128], [128, 256], [256, 512]]),
    ],
)
def test_square_anchors_of_every_level(pyramid, name, sides):
    settings = TINY.model_copy(update={"pyramid": pyramid, "trainable_layers": 5})
    model = build_faster_rcnn(BackboneSettings(name=name, weights="none"), settings, 2)
    levels = model.rpn.anchor_generator.cell_anchors
    squares = [level[(level[:, 2] - level[:, 0]) == (level[:, 3] - level[:, 1])] for level in levels]
    assert [(level[:, 2] - level[:, 0]).tolist() for level in squares] == sides


def test_one_by_one_equals_torchvisions_own_forward():
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2)
    image = torch.rand(3, 64, 96)
    model.eval()
    with torch.inference_mode():
        (expected,) = FasterRCNN.forward(model, [image])
    (detection,) = detect(model, [image])
    assert len(detection["boxes"]) > 0
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(detection[name], expected[name])


def test_regions_far_from_every_box_are_ignored_where_labels_are_incomplete():
    iou = torch.tensor([[0.6, 0.3, 0.05, 0.0], [0.1, 0.45, 0.09, 0.0]])  # (boxes, regions)
    assert IncompleteLabelsMatcher(0.5, 0.1)(iou).tolist() == [0, -1, -2, -2]
    usual = Matcher(0.5, 0.5, allow_low_quality_matches=False)
    assert IncompleteLabelsMatcher(0.5, 0.0)(iou).tolist() == usual(iou).tolist() == [0, -1, -1, -1]
