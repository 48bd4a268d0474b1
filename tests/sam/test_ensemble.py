"""The fused map, its entropy, weights and selection by hand; ensembles of real segmenters on scenes."""

import numpy as np
import pytest
import torch

from tests.helpers import CPU, block_photo
from weaksam.sam.batches import BatchLimit
from weaksam.sam.box_masks import BoxMaskSettings, masks_of_boxes
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.ensemble import (
    LabelPool,
    Uncertainty,
    entropy,
    fused_boxes,
    fused_maps,
    fused_points,
    masks_of_points,
    pixel_weights,
    uncertainty,
)
from weaksam.sam.flipped_views import FlippedView, draw_views
from weaksam.sam.prompts import Prompts
from weaksam.structures.masks import mask_from_rle

VIEWS = draw_views(12, torch.Generator().manual_seed(0))
SAME = FlippedView("horizontal", 0, 1.0)


def test_entropy_by_hand() -> None:
    values = torch.tensor([0.5, 1 / 12, 0.25, 0.3, 0.0, 1.0], dtype=torch.float64)
    assert entropy(values).tolist() == pytest.approx([1.0, 0.413817, 0.811278, 0.881291, 0.0, 0.0], abs=1e-6)
    edges = torch.tensor([0.3159, 0.3161, 0.6839, 0.6841], dtype=torch.float64)
    assert (entropy(edges) > 0.9).tolist() == [False, True, True, False]


def test_weights_by_hand() -> None:
    fused = torch.tensor([0.0, 0.25, 0.3, 0.5, 0.7, 1.0], dtype=torch.float64)
    assert pixel_weights(fused, "off").tolist() == [1.0] * 6
    soft = [1.0, 1 - 0.811278, 1 - 0.881291, 0.0, 1 - 0.881291, 1.0]
    assert pixel_weights(fused, "soft").tolist() == pytest.approx(soft, abs=1e-6)
    assert pixel_weights(fused, "hard").tolist() == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]


def fused_map(num_high: int, num_foreground: int, num: int = 1000) -> torch.Tensor:
    return torch.tensor([0.5] * num_high + [1.0] * num_foreground + [0.0] * (num - num_high - num_foreground))[None]


@pytest.mark.parametrize(
    ("num_high", "num_foreground", "kept"),
    [(99, 199, True), (100, 300, False), (99, 198, False), (99, 197, False), (0, 1, True), (0, 0, False)],
)
def test_selection_around_its_limits(num_high: int, num_foreground: int, kept: bool) -> None:
    of_map = uncertainty(fused_map(num_high, num_foreground))
    assert of_map.absolute == pytest.approx(num_high / 1000)
    assert of_map.relative == pytest.approx(num_high / num_foreground if num_foreground else float("inf"))
    assert of_map.kept() is kept


def test_a_small_object_is_refused_by_its_foreground_alone() -> None:
    """20 uncertain pixels of 1000 beside 30 certain ones of the object: only the foreground's share tells."""
    fused = fused_map(20, 30)
    assert uncertainty(fused) == (0.02, pytest.approx(20 / 30)) and not uncertainty(fused).kept()
    of_photo = uncertainty(fused, "photo")
    assert of_photo.relative == pytest.approx(20 / 980) and of_photo.kept()
    assert of_photo.relative == pytest.approx(of_photo.absolute / (1 - of_photo.absolute))
    assert uncertainty(torch.full((2, 2), 0.5), "photo") == Uncertainty(1.0, float("inf"))


def test_a_pool_takes_what_is_better_in_two_of_three() -> None:
    pool = LabelPool(size=2)
    assert pool.add(fused_map(50, 200)) and pool.add(fused_map(80, 200))
    assert not pool.add(fused_map(90, 200))  # worse in two, whatever its change is
    assert pool.add(fused_map(10, 200))
    held = sorted(label.certainty.absolute for label in pool.labels)
    assert held == pytest.approx([0.01, 0.08])  # the first that it beats goes
    assert torch.equal(pool.fused(), (fused_map(10, 200) + fused_map(80, 200)) / 2)


def test_identical_masks_fuse_to_that_mask() -> None:
    """An answer that moves with the photo, as an ideal segmenter's would, fuses to the very mask of the photo."""
    mask = torch.zeros(24, 32, dtype=torch.bool)
    mask[4:12, 6:20] = mask[10:20, 10:14] = True
    image = np.repeat(mask.numpy()[..., None] * np.uint8(255), 3, axis=2)
    segmenter = build_segmenter(SegmenterSettings(family="tree"), CPU)
    fused = fused_maps(segmenter, image, VIEWS, lambda _, view: view.labels(mask)[None], BatchLimit(1))
    assert torch.equal(fused[0], mask.float())


def test_a_mask_that_is_wrong_in_one_view_has_its_share() -> None:
    answers = iter([torch.ones(1, 4, 6), torch.zeros(1, 4, 6), torch.zeros(1, 4, 6), torch.ones(1, 4, 6)])
    image = np.zeros((4, 6, 3), np.uint8)
    segmenter = build_segmenter(SegmenterSettings(family="tree"), CPU)
    fused = fused_maps(segmenter, image, [SAME] * 4, lambda *_: next(answers).bool(), BatchLimit(1))
    assert torch.equal(fused, torch.full((1, 4, 6), 0.5))


@pytest.mark.parametrize("family", ["nano", "tree"])
def test_points_and_boxes_of_real_segmenters(family: str) -> None:
    segmenter = build_segmenter(SegmenterSettings(family=family), CPU)
    image = block_photo()
    size = (image.shape[0], image.shape[1])
    middle = torch.tensor([[size[1] / 2, size[0] / 2]])
    views = VIEWS[:3]
    fused = fused_points(segmenter, image, Prompts.single_points(middle), views, BatchLimit(2))
    assert fused.shape == (1, *size) and ((fused * 3).round() == fused * 3).all()
    alone = fused_points(segmenter, image, Prompts.single_points(middle), [SAME], BatchLimit(2))
    flipped = np.ascontiguousarray(image[:, ::-1])
    there = Prompts.single_points(torch.tensor([[size[1] - middle[0, 0], middle[0, 1]]]))
    assert torch.equal(alone, masks_of_points(segmenter, segmenter.encode(flipped), there).flip(-1).float())

    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [2.0, 2.0, 20.0, 30.0]])
    by_views = fused_boxes(segmenter, image, Prompts(boxes=boxes), BoxMaskSettings(), [SAME], BatchLimit(2))
    seen = Prompts(boxes=SAME.boxes(boxes, size))
    once = masks_of_boxes(segmenter, segmenter.encode(flipped), seen, BoxMaskSettings())
    for rle, plain in zip(by_views.rles, once.rles, strict=True):
        assert torch.equal(mask_from_rle(rle), mask_from_rle(plain).flip(-1))
    assert torch.equal(by_views.predicted_iou, once.predicted_iou)
    assert by_views.stability.tolist() == pytest.approx([1.0, 1.0])  # one view agrees with itself
    several = fused_boxes(segmenter, image, Prompts(boxes=boxes), BoxMaskSettings(), views, BatchLimit(2))
    assert len(several.rles) == 2 and ((several.stability >= 0) & (several.stability <= 1)).all()


def test_no_prompt_gives_no_mask() -> None:
    segmenter = build_segmenter(SegmenterSettings(family="nano"), CPU)
    image = block_photo()
    size = (image.shape[0], image.shape[1])
    none = Prompts(boxes=torch.zeros(0, 4))
    assert fused_boxes(segmenter, image, none, BoxMaskSettings(), VIEWS[:2], BatchLimit(1)).rles == []
    points = Prompts.single_points(torch.zeros(0, 2))
    assert fused_points(segmenter, image, points, VIEWS[:2], BatchLimit(1)).shape == (0, *size)
