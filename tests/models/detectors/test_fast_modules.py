"""The modules that make training fast compute what torchvision's own modules do, losses and gradients, to rounding."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers import NANO_BACKBONE, UNTRAINED_BACKBONE, instances
from weaksam.models.backbones.fast_convolutions import FastConv2d
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, detect, target_of, training_losses
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, build_mask_rcnn
from weaksam.models.detectors.region_proposals import neighbourhoods
from weaksam.models.detectors.roi_heads import RoiLosses, box_losses, mask_logits_of
from weaksam.structures.instances import Instances

TINY = MaskDetectorSettings(
    fpn_channels=16,
    representation=32,
    trainable_layers=4,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    min_score=0.0,
    mask_channels=16,
    mask_layers=1,
)
BACKBONES = {
    "mobilenet_v2": UNTRAINED_BACKBONE,
    "resnet50": BackboneSettings(name="resnet50", weights="none"),
    "vgg16": BackboneSettings(name="vgg16", weights="none"),
    "sam_nano": NANO_BACKBONE,
}


def batch(masks=False):
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 64, 96, generator=generator), torch.rand(3, 60, 90, generator=generator)]
    drawn = torch.zeros(2, 64, 96, dtype=torch.bool)
    drawn[0, 10:40, 10:40] = drawn[1, 20:50, 45:80] = True
    boxes = instances([[8, 8, 42, 42], [44, 18, 82, 52]], [0, 1])
    empty = torch.zeros(0, 60, 90, dtype=torch.bool)
    return images, [target_of(boxes, drawn if masks else None), target_of(Instances.empty(), empty if masks else None)]


def twins(build, backbone):
    torch.manual_seed(0)
    plain = build(backbone, TINY, 2, plain=True)
    fast = build(backbone, TINY, 2)
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def losses_and_gradients(model, images, targets):
    """In float64, where a ReLU near zero does not fall the other way by rounding."""
    model.double()
    images = [image.double() for image in images]
    targets = [target | {"boxes": target["boxes"].double()} for target in targets]
    torch.manual_seed(1)
    losses = training_losses(model, images, targets)
    torch.stack(list(losses.values())).sum().backward()
    return losses, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", BACKBONES)
def test_losses_and_gradients_are_those_of_torchvisions_modules(name):
    plain, fast = twins(build_mask_rcnn if name == "mobilenet_v2" else build_faster_rcnn, BACKBONES[name])
    assert list(plain.state_dict()) == list(fast.state_dict())
    images, targets = batch(masks=name == "mobilenet_v2")
    losses, gradients = losses_and_gradients(plain, images, targets)
    fast_losses, fast_gradients = losses_and_gradients(fast, images, targets)
    assert set(losses) == set(fast_losses) and set(gradients) == set(fast_gradients)
    for key, value in losses.items():
        # torchvision's loss of the anchors is float32 whatever the input is
        least = 1e-9 if value.dtype == torch.float64 else 1e-6
        torch.testing.assert_close(fast_losses[key].double(), value.double(), rtol=least, atol=least)
    for key, value in gradients.items():
        difference = (fast_gradients[key] - value).norm() / value.norm().clamp(min=1e-9)
        assert difference < 1e-7, key


def test_detections_are_those_of_torchvisions_modules():
    plain, fast = twins(build_faster_rcnn, UNTRAINED_BACKBONE)
    image = batch()[0][0]
    (expected,), (detection,) = detect(plain, [image]), detect(fast, [image])
    assert len(expected["boxes"]) == len(detection["boxes"]) > 0
    torch.testing.assert_close(detection["scores"], expected["scores"], rtol=1e-4, atol=1e-5)


def test_convolutions_fold_what_follows_them_and_keep_their_state():
    plain, fast = twins(build_faster_rcnn, BACKBONES["resnet50"])
    convolutions = [module for module in fast.backbone.modules() if isinstance(module, nn.Conv2d)]
    assert all(type(module) is FastConv2d for module in convolutions)
    assert sum(len(module.norm) for module in convolutions) == sum(
        type(module).__name__ == "FrozenBatchNorm2d" for module in plain.backbone.modules()
    )


def test_neighbourhoods_are_the_cells_that_a_3x3_convolution_reads():
    maps = [torch.randn(2, 5, 4, 6), torch.randn(2, 5, 2, 3)]
    patches = [F.unfold(level, 3, padding=1).transpose(1, 2) for level in maps]  # (2, cells, 5 * 9)
    everywhere = torch.cat(patches, dim=1).flatten(0, 1).unflatten(1, (5, 9)).transpose(1, 2).flatten(1)
    cells = torch.tensor([0, 29, 30, 59, 24, 5, 24])  # corners of both photos, the second level, one cell twice
    torch.testing.assert_close(neighbourhoods(maps, cells), everywhere[cells])
    assert neighbourhoods(maps, cells[:0]).shape == (0, 45)


def test_losses_of_regions_by_hand():
    deltas = torch.zeros(3, 8)
    deltas[1, 4:] = torch.tensor([1.0, 0.0, 0.0, 0.05])  # class 1
    wanted = torch.zeros(3, 4)
    of_regions = box_losses(deltas, torch.tensor([0, 1, 0]), wanted)
    by_hand = (1 - 1 / 18) + 0.5 * 0.05**2 * 9
    torch.testing.assert_close(of_regions, torch.tensor([0.0, by_hand, 0.0]))
    losses = RoiLosses(
        torch.tensor([0, 1, 0]), torch.tensor([1.0, 2.0, 6.0]), of_regions, torch.tensor([0.5])
    ).reduced()
    assert losses["loss_classifier"].item() == 3 and losses["loss_mask"].item() == 0.5
    assert losses["loss_box_reg"].item() == pytest.approx(by_hand / 3)
    nothing = RoiLosses(torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(0)).reduced()
    assert [value.item() for value in nothing.values()] == [0, 0, 0]


def test_masks_of_a_regions_own_class():
    model = build_mask_rcnn(UNTRAINED_BACKBONE, TINY, 3)
    hidden, labels = torch.randn(4, 16, 5, 5), torch.tensor([1, 3, 2, 1])
    expected = model.roi_heads.mask_predictor(hidden)[torch.arange(4), labels]
    torch.testing.assert_close(mask_logits_of(model.roi_heads.mask_predictor, hidden, labels), expected)
    assert mask_logits_of(model.roi_heads.mask_predictor, hidden[:0], labels[:0]).shape == (0, 10, 10)
