"""Weights of boxes in the losses of the box head and of the proposal network, against losses without weights."""

import pytest
import torch

from tests.helpers import UNTRAINED_BACKBONE, instances
from weaksam.engine.detectors.training import TrainableSettings
from weaksam.models.detectors.box_weights import weights_of_boxes, weights_of_regions
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, target_of, training_losses
from weaksam.models.photo_draws import draws_of_photos

SETTINGS = TrainableSettings(
    short_side=64, long_side=96, fpn_channels=8, representation=8, rpn_pre_nms=40, rpn_post_nms=20, min_score=0.0
)
BOXES = [[4.0, 6.0, 40.0, 50.0], [50.0, 10.0, 90.0, 60.0]]


def test_a_region_has_the_weight_of_its_box_and_background_has_one():
    targets = [{"class_weights": torch.tensor([0.5, 2.0])}, {}, {"class_weights": torch.zeros(0)}]
    matches = [torch.tensor([1, 0, 0]), torch.tensor([0]), torch.tensor([0])]
    labels = [torch.tensor([3, 1, 0]), torch.tensor([1]), torch.tensor([0])]
    assert weights_of_regions("class_weights", matches, labels, targets).tolist() == [2, 0.5, 1, 1, 1]
    assert weights_of_regions("box_weights", matches, labels, targets) is None


def test_a_box_is_known_by_its_corners_and_the_first_of_equals_counts():
    boxes = torch.tensor([*BOXES, BOXES[0]])
    targets = [{"boxes": boxes, "box_weights": torch.tensor([0.5, 2.0, 9.0])}, {"boxes": boxes[:0]}]
    weights = weights_of_boxes("box_weights", [boxes[[1, 0, 2]], boxes[:0]], targets)
    assert weights.tolist() == [2, 0.5, 0.5]
    assert weights_of_boxes("class_weights", [boxes, boxes[:0]], targets) is None


def losses(model, **weights: list[float]) -> dict[str, float]:
    """Losses of two photos with the same draws; the second has no box."""
    target = target_of(instances(BOXES, [0, 1]))
    target |= {name: torch.tensor(values) for name, values in weights.items()}
    targets = [target, target_of(instances([], []))]
    targets = [of_photo | {"tags": torch.ones(2, dtype=torch.bool)} for of_photo in targets]
    torch.manual_seed(3)
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    with draws_of_photos((1, 2)):
        named = training_losses(model, images, targets)
    return {name: float(value.detach()) for name, value in named.items()}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_faster_rcnn(UNTRAINED_BACKBONE, SETTINGS, 2)


def test_losses_are_linear_in_the_weights(model):
    plain, ones = losses(model), losses(model, class_weights=[1, 1], box_weights=[1, 1])
    assert ones == pytest.approx(plain, rel=1e-6)
    none = losses(model, class_weights=[0.0, 0.0], box_weights=[0.0, 0.0])
    assert none["loss_box_reg"] == none["loss_rpn_box_reg"] == 0
    assert 0 < none["loss_classifier"] < plain["loss_classifier"]  # the background still counts
    assert 0 < none["loss_objectness"] < plain["loss_objectness"]
    half = losses(model, class_weights=[0.5, 0.5], box_weights=[0.5, 0.5])
    for name in plain:
        assert half[name] == pytest.approx((plain[name] + none[name]) / 2, rel=1e-5)


def test_each_box_counts_by_its_own_weight(model):
    plain = losses(model)
    first, second = (losses(model, box_weights=weights) for weights in ([1.0, 0.0], [0.0, 1.0]))
    for name in ("loss_box_reg", "loss_rpn_box_reg"):
        assert first[name] > 0 and second[name] > 0
        assert first[name] + second[name] == pytest.approx(plain[name], rel=1e-5)
    assert first["loss_classifier"] == plain["loss_classifier"]


def test_weights_of_instances_come_with_their_boxes():
    objects = instances([*BOXES, [0, 0, 0.5, 9]], [0, 1, 0])
    objects = objects.replace(class_weights=torch.tensor([0.1, 0.2, 0.3]))
    assert target_of(objects)["class_weights"].tolist() == pytest.approx([0.1, 0.2])
    assert "box_weights" not in target_of(objects)
    joined = type(objects).cat([objects, instances(BOXES[:1])])
    assert joined.class_weights.tolist() == pytest.approx([0.1, 0.2, 0.3, 1])
    with pytest.raises(ValueError, match="class_weights must be"):
        objects.replace(class_weights=torch.ones(2))
