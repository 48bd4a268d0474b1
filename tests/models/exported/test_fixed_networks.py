"""Networks of fixed size detect what the networks they are copies of detect, photo by photo and in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import nms

from tests.prediction.toys import toy_checkpoint
from weaksam.models.backbones.fast_convolutions import FastConv2d, fuse_convolutions
from weaksam.models.backbones.products import FastLinear
from weaksam.models.exported.network import best_rows
from weaksam.models.exported.plain import with_plain_layers
from weaksam.models.exported.suppression import kept_boxes
from weaksam.prediction.exporting import fixed_network
from weaksam.prediction.predictor import Predictor

FRAME = (64, 96)


def blocks(seed: int, size: tuple[int, int] = FRAME) -> np.ndarray:
    image = np.random.default_rng(seed).integers(90, 150, (*size, 3), dtype=np.uint8)
    image[10:40, 20:60] = (200, 30, 30)
    return image


def in_frame(*images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of photos no larger than the frame; what lies beside them is 255."""
    batch = torch.full((len(images), 3, *FRAME), 255, dtype=torch.uint8)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    return batch, torch.tensor([image.shape[:2] for image in images])


def once(architecture: str) -> dict[str, Any]:
    """A single view, and scores above 0, which the fixed network takes for none."""
    return {"flip_test": False, **({} if architecture == "mask2former" else {"min_score": 0.01})}


@pytest.mark.parametrize("architecture", ["faster_rcnn", "dino", "mask_rcnn"])
def test_a_photo_of_the_frame_gives_what_the_network_gives(architecture: str) -> None:
    checkpoint = toy_checkpoint(architecture, **once(architecture))
    network = fixed_network(checkpoint, FRAME)
    wanted = [Predictor(checkpoint, device="cpu").detect([blocks(seed)])[0] for seed in range(3)]
    with torch.inference_mode():
        boxes, scores, labels, *masks = network(*in_frame(*map(blocks, range(3))))
    assert boxes.shape == (3, 5, 4) and network.output_names[:3] == ("boxes", "scores", "labels")
    for row, detections in enumerate(wanted):
        num = len(detections)
        assert num > 0 and (scores[row, num:] == 0).all() and (labels[row, num:] == -1).all()
        torch.testing.assert_close(scores[row, :num], detections.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(boxes[row, :num], detections.boxes, rtol=0, atol=1e-3)
        assert torch.equal(labels[row, :num], detections.labels)
    if architecture == "mask_rcnn":
        assert masks[0].shape == (3, 5, 28, 28) and 0 <= float(masks[0].min()) <= float(masks[0].max()) <= 1


@pytest.mark.parametrize("architecture", ["faster_rcnn", "dino", "mask_rcnn", "mask2former"])
def test_what_lies_beside_a_photo_and_in_its_batch_does_not_count(architecture: str) -> None:
    network = fixed_network(toy_checkpoint(architecture, **once(architecture)), FRAME)
    small = blocks(0, (50, 70))
    with torch.inference_mode():
        alone = network(*in_frame(small))
        images, sizes = in_frame(small, blocks(1))
        images[0, :, 50:] = 7
        together = network(images, sizes)
    for of_alone, of_batch in zip(alone, together, strict=True):
        torch.testing.assert_close(of_alone[0].float(), of_batch[0].float(), rtol=0, atol=2e-4)
    assert float(alone[0][..., 0::2].max()) <= 70 and float(alone[0][..., 1::2].max()) <= 50


def test_plain_layers_compute_what_the_fast_ones_do() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 2)
    )
    fast = fuse_convolutions(network.eval())
    assert isinstance(fast[0], FastConv2d) and isinstance(fast[4], FastLinear)
    x = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        wanted = fast(x)
        plain = with_plain_layers(fast)
        torch.testing.assert_close(plain(x), wanted)
    assert not any(isinstance(module, (FastConv2d, FastLinear)) for module in plain.modules())


@pytest.mark.parametrize("seed", range(4))
def test_kept_boxes_are_those_of_torchvision(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(3, 40, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 5 + 10 * torch.rand(3, 40, 2, generator=generator)], dim=-1)
    scores = torch.rand(3, 40, generator=generator)
    scores[1] = 0  # a group without boxes
    scores[2, ::2] = 0
    kept = kept_boxes(boxes, scores, 0.4)
    for group in (0, 2):
        there = (scores[group] > 0).nonzero()[:, 0]
        wanted = there[nms(boxes[group, there], scores[group, there], 0.4)]
        assert set(kept[group].nonzero()[:, 0].tolist()) == set(wanted.tolist())
    assert not kept[1].any()


def test_best_rows_are_sorted_and_padded() -> None:
    boxes = torch.arange(12.0).view(1, 3, 4)
    rows, scores, labels = best_rows(boxes, torch.tensor([[0.2, 0.0, 0.9]]), torch.tensor([[5, 6, 7]]), 4)
    assert scores.tolist() == [[pytest.approx(0.9), pytest.approx(0.2), 0, 0]] and labels.tolist() == [[7, 5, -1, -1]]
    assert rows[0].tolist() == [[8, 9, 10, 11], [0, 1, 2, 3], [0] * 4, [0] * 4]
