"""Regions to ignore: which anchors and regions teach nothing, by hand, and what that does to the losses."""

import pytest
import torch
from torch import nn

from tests.helpers import UNTRAINED_BACKBONE, instances
from weaksam.models.detectors.faster_rcnn import DetectorSettings, build_faster_rcnn, target_of, training_losses
from weaksam.models.detectors.ignored_regions import IGNORED, nearest_is_ignored

TINY = DetectorSettings(short_side=64, long_side=96, fpn_channels=16, representation=32, rpn_pre_nms=60)
OBJECT, OTHER = [0, 0, 10, 10], [20, 0, 30, 10]
NEAR_OBJECT, NEAR_OTHER, BETWEEN, FAR = [0, 0, 10, 9], [20, 0, 30, 6], [5, 0, 25, 10], [50, 50, 60, 60]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2)


def target(crowd):
    return target_of(instances([OBJECT, OTHER], [0, 1], crowd=crowd))


def regions(*boxes):
    return torch.tensor(boxes, dtype=torch.float32)


def test_crowds_are_ignored_boxes_of_a_target():
    assert target([False, True])["labels"].tolist() == [1, IGNORED]
    assert target([False, False])["labels"].tolist() == [1, 2]


def test_a_region_is_ignored_where_it_overlaps_an_ignored_box_most():
    where = regions(NEAR_OBJECT, NEAR_OTHER, BETWEEN, FAR)
    for crowd, expected in (
        ([False, True], [False, True, False, False]),  # BETWEEN overlaps both alike: the object counts
        ([True, True], [True, True, True, False]),
        ([False, False], [False] * 4),
    ):
        values = target(crowd)
        assert nearest_is_ignored(where, values["boxes"], values["labels"]).tolist() == expected
    assert nearest_is_ignored(where, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).tolist() == [False] * 4


def test_regions_of_the_box_head(model):
    where = regions(NEAR_OBJECT, [20, 0, 30, 9], NEAR_OTHER, [20, 0, 30, 3], FAR)  # IoU .9, .9, .6, .3, 0
    for crowd, expected in (([False, True], [1, -1, -1, -1, 0]), ([False, False], [1, 2, 2, 0, 0])):
        values = target(crowd)
        matched, labels = model.roi_heads.assign_targets_to_proposals([where], [values["boxes"]], [values["labels"]])
        assert labels[0].tolist() == expected
        assert matched[0][:2].tolist() == [0, 1]


def test_anchors_of_the_proposal_network(model):
    where = regions(NEAR_OBJECT, [20, 0, 30, 9], [20, 0, 30, 2], FAR)  # IoU .9, .9, .2, 0
    labels, matched = model.rpn.assign_targets_to_anchors([where, where], [target([False, True]), target(None)])
    assert labels[0].tolist() == [1, -1, -1, 0]
    assert labels[1].tolist() == [1, 1, 0, 0]
    assert matched[0][0].tolist() == OBJECT and matched[1][1].tolist() == OTHER
    labels, _ = model.rpn.assign_targets_to_anchors([where], [target([True, True])])
    assert labels[0].tolist() == [-1, -1, -1, 0]


def test_a_photo_of_which_nothing_teaches_has_no_loss_in_the_proposal_network(model):
    everywhere = target_of(instances([[0, 0, 96, 64]], [0], crowd=[True]))
    losses = training_losses(model, [torch.rand(3, 64, 96)], [everywhere])
    assert losses["loss_objectness"].item() == 0 and losses["loss_rpn_box_reg"].item() == 0


def test_an_ignored_object_changes_what_is_taught(model):
    torch.manual_seed(1)
    image, boxes = torch.rand(3, 64, 96), [[4, 4, 40, 40], [50, 10, 90, 50]]
    values = {}
    for name, crowd in (("object", [False, False]), ("ignored", [False, True])):
        torch.manual_seed(2)
        values[name] = training_losses(model, [image], [target_of(instances(boxes, [0, 1], crowd=crowd))])
    torch.manual_seed(2)
    values["unknown"] = training_losses(model, [image], [target_of(instances(boxes[:1], [0]))])
    objectness = {name: round(float(losses["loss_objectness"].detach()), 6) for name, losses in values.items()}
    assert len(set(objectness.values())) == 3
    assert all(bool(torch.isfinite(loss)) for losses in values.values() for loss in losses.values())
