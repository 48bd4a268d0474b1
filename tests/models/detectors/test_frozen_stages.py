"""Losses from kept maps of the frozen stages equal those from the photos, and cells are those of the photo alone."""

import pytest
import torch

from tests.helpers import NANO_BACKBONE, UNTRAINED_BACKBONE, instances
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import DetectorSettings, build_faster_rcnn, target_of, training_losses
from weaksam.models.detectors.frozen_stages import frozen_map, losses_from_maps, num_frozen
from weaksam.structures.instances import Instances

TINY = DetectorSettings(fpn_channels=16, representation=32, rpn_pre_nms=60, rpn_post_nms=40)


@pytest.mark.parametrize(
    ("backbone", "trainable", "expected"),
    [
        (UNTRAINED_BACKBONE, 4, 4),
        (UNTRAINED_BACKBONE, 6, 0),
        (UNTRAINED_BACKBONE, 0, 6),  # the next one gives a map of the pyramid
        (BackboneSettings(name="resnet50", weights="none"), 3, 5),
        (NANO_BACKBONE, 4, 0),
    ],
)
def test_which_modules_are_frozen(backbone, trainable, expected):
    model = build_faster_rcnn(backbone, TINY.model_copy(update={"trainable_layers": trainable}), 2)
    assert num_frozen(model) == expected


@pytest.mark.parametrize("plain", [False, True])
def test_losses_and_gradients_are_those_of_photos_of_one_padded_size(plain):
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2, plain=plain).double().train()
    images = [torch.rand(3, 64, 96, dtype=torch.float64), torch.rand(3, 60, 90, dtype=torch.float64)]
    boxes = instances([[8, 8, 42, 42], [44, 18, 82, 52]], [0, 1])
    targets = [target_of(boxes), target_of(Instances.empty())]
    targets = [target | {"boxes": target["boxes"].double()} for target in targets]
    maps = [frozen_map(model, image) for image in images]
    assert maps[0].shape == maps[1].shape == (24, 16, 24)
    values = []
    for losses_of in (
        lambda: training_losses(model, images, targets),
        lambda: losses_from_maps(model, maps, [(64, 96), (60, 90)], targets),
    ):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        losses = losses_of()
        torch.stack(list(losses.values())).sum().backward()
        values.append((losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (losses, gradients), (from_maps, of_maps) = values
    torch.testing.assert_close(from_maps, losses, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(of_maps, gradients, rtol=1e-7, atol=1e-9)


def test_a_map_is_that_of_the_photo_alone_and_is_padded_with_zeros():
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2).train()
    small, large = torch.rand(3, 40, 60), torch.rand(3, 90, 120)
    (alone, _) = model.transform([small])
    expected = alone.tensors
    for module in list(model.backbone.body.children())[:4]:
        expected = module(expected)
    maps = [frozen_map(model, image) for image in (small, large)]
    assert torch.equal(maps[0], expected[0]) and maps[0].shape == (24, 16, 16)
    losses = losses_from_maps(model, maps, [(40, 60), (90, 120)], [target_of(Instances.empty())] * 2)
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
