"""Mask R-CNN: pasting by hand, a start from Faster R-CNN, a mask head that learns, and torchvision's own numbers."""

import pytest
import torch
from torchvision.models.detection import MaskRCNN

from tests.helpers import UNTRAINED_BACKBONE
from weaksam.config import UserError
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, detect, training_losses
from weaksam.models.detectors.mask_rcnn import (
    MaskDetectorSettings,
    build_mask_rcnn,
    paste_masks,
    start_from_detector,
)
from weaksam.structures.masks import mask_from_rle

TINY = MaskDetectorSettings(
    short_side=64,
    long_side=96,
    fpn_channels=16,
    representation=32,
    mask_channels=16,
    mask_layers=1,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    min_score=0.0,
    max_boxes=5,
)


def test_pasting_puts_a_full_mask_exactly_on_its_box():
    probabilities = torch.ones(2, 1, 28, 28)
    probabilities[1, :, :, 14:] = 0  # the right half is background
    boxes = torch.tensor([[10.0, 20.0, 50.0, 60.0], [100.0, 20.0, 156.0, 60.0]])
    full, half = (mask_from_rle(rle) for rle in paste_masks(probabilities, boxes, (80, 200)))
    assert full.shape == (80, 200)
    assert full[22:58, 12:48].all() and int(full.sum()) == pytest.approx(40 * 40, rel=0.12)
    assert half[25:55, 104:124].all() and not half[:, 132:].any()
    assert paste_masks(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (80, 200)) == ()


def test_many_masks_pasted_in_chunks_equal_one_by_one():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(19, 1, 28, 28, generator=generator)
    corner = torch.rand(19, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 5 + 30 * torch.rand(19, 2, generator=generator)], dim=1)
    together = paste_masks(probabilities, boxes, (64, 96))
    apart = tuple(paste_masks(probabilities[i : i + 1], boxes[i : i + 1], (64, 96))[0] for i in range(19))
    assert together == apart


def test_starting_from_the_detector_changes_no_box():
    torch.manual_seed(0)
    detector = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2)
    segmenting = build_mask_rcnn(UNTRAINED_BACKBONE, TINY, 2)
    start_from_detector(segmenting, detector.state_dict())
    image = torch.rand(3, 64, 96)
    (expected,), (detection,) = detect(detector, [image]), detect(segmenting, [image])
    assert len(detection["boxes"]) > 0
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(detection[name], expected[name])
    assert detection["masks"].shape == (len(detection["boxes"]), 1, 28, 28)


def test_another_detector_is_refused_in_one_sentence():
    state = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 3).state_dict()
    with pytest.raises(UserError, match=r"roi_heads\.box_predictor") as caught:
        start_from_detector(build_mask_rcnn(UNTRAINED_BACKBONE, TINY, 2), state)
    assert "\n" not in str(caught.value)


def test_the_mask_loss_starts_at_that_of_a_coin_and_falls():
    torch.manual_seed(0)
    model = build_mask_rcnn(UNTRAINED_BACKBONE, TINY, 2)
    masks = torch.zeros(1, 64, 96, dtype=torch.uint8)
    masks[0, 10:50, 20:40] = 1  # the left half of the box
    target = {"boxes": torch.tensor([[20.0, 10.0, 60.0, 50.0]]), "labels": torch.tensor([1]), "masks": masks}
    optimizer = torch.optim.Adam(model.roi_heads.mask_predictor.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = training_losses(model, [torch.ones(3, 64, 96) * 0.5], [target])["loss_mask"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.6931, abs=0.02)  # ln 2
    assert losses[-1] < 0.8 * losses[0]


def test_detecting_equals_torchvisions_own_forward():
    torch.manual_seed(0)
    model = build_mask_rcnn(UNTRAINED_BACKBONE, TINY, 2).eval()
    image = torch.rand(3, 64, 96)
    with torch.inference_mode():
        (expected,) = MaskRCNN.forward(model, [image])
    (detection,) = detect(model, [image])
    pasted = paste_masks(detection["masks"], detection["boxes"], (64, 96))
    assert len(pasted) == len(expected["masks"]) > 0
    for rle, mask in zip(pasted, expected["masks"], strict=True):
        assert torch.equal(mask_from_rle(rle), mask[0] >= 0.5)
