"""``rules=original`` against the released code's sequence of calls, written out with segment-anything's own classes."""

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from tests.helpers import noise_photo, random_sam
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.stages.proposals import ORIGINAL_RULES, ProposalSettings, propose
from weaksam.structures.clue_points import COARSE, COARSE_JOINT, CROSS, FINE, FINE_JOINT, GRID, CluePoints

SIDE = 8  # grid points: 32 as published take a while, and suppression at 0.3 leaves one box of a toy
SIZES = [(48, 80), (90, 150)]


@pytest.fixture(scope="module")
def sam():
    """Random weights, scaled so that masks are sparse and differ, and predicted IoU lies about the threshold."""
    model = random_sam(1, scale=1.0, patch_size=4, decoder_depth=1).requires_grad_(False)
    last = model.mask_decoder.iou_prediction_head.layers[1]
    last.weight.mul_(0.01), last.bias.fill_(0.38)
    model.mask_threshold = 250.0
    return model.eval().requires_grad_(False)


def clues(size) -> CluePoints:
    """Points of three kinds: coarse of classes 3 (three) and 1 (one), fine of class 1 (two), ten of cross-attention."""
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(16, 2, generator=generator) * torch.tensor([size[1], size[0]])
    labels = torch.tensor([3, 1, 3, 3, 1, 1] + [-1] * 10)
    return CluePoints(points.floor(), labels, torch.tensor([COARSE] * 4 + [FINE] * 2 + [CROSS] * 10))


# The released code's sequence, plainly


def generated_boxes(sam, image) -> list[list[float]]:
    generator = SamAutomaticMaskGenerator(
        sam, points_per_side=SIDE, pred_iou_thresh=0.3, stability_score_thresh=0.3, box_nms_thresh=0.7
    )
    corners = []
    for record in generator.generate(image):
        x, y, w, h = record["bbox"]
        corners.append([x, y, x + w, y + h])
    return corners


def tight_box(mask: np.ndarray) -> list[float]:
    if not mask.any():
        return [0, 0, 0, 0]
    rows, columns = np.where(mask)
    return [columns.min(), rows.min(), columns.max(), rows.max()]


def prompted_boxes(sam, image, points: np.ndarray, labels: np.ndarray, class_aware: bool) -> list[list[float]]:
    boxes = []
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    for point in points:
        masks, _, _ = predictor.predict(point_coords=point[None], point_labels=np.array([1]), multimask_output=True)
        boxes += [tight_box(mask) for mask in masks[1:]]
    for label in np.unique(labels) if class_aware else []:
        predictor.set_image(image)
        of_class = points[labels == label]
        foreground = np.ones(len(of_class))
        masks, _, _ = predictor.predict(point_coords=of_class, point_labels=foreground, multimask_output=True)
        boxes += [tight_box(mask) for mask in masks[1:]]
    return boxes


def suppressed_in_order(boxes: list[list[float]], limit: float = 0.9) -> list[list[float]]:
    left, kept = np.array(boxes, dtype=float).reshape(-1, 4), []
    while len(left):
        kept.append(left[0].tolist())
        overlap = (np.minimum(left[0, 2:], left[:, 2:]) - np.maximum(left[0, :2], left[:, :2]) + 1).clip(0).prod(1)
        areas = (left[:, 2:] - left[:, :2] + 1).prod(1)
        left = left[~(overlap / (areas[0] + areas - overlap) > limit)]
    return kept


def original_sequence(sam, image, clues: CluePoints) -> dict[str, list[list[float]]]:
    boxes = {"grid": generated_boxes(sam, image)}
    for name, kind in (("coarse", COARSE), ("fine", FINE), ("cross", CROSS)):
        points, labels, _ = (part.numpy() for part in clues.select(clues.kinds == kind))
        boxes[name] = prompted_boxes(sam, image, points, labels, class_aware=kind != CROSS)
    boxes["cross"] = suppressed_in_order(boxes["cross"])
    return boxes


@pytest.mark.parametrize("size", SIZES)
def test_the_original_rules_give_the_original_sequence(sam, size):
    expected = original_sequence(sam, noise_photo(size), clues(size))
    corners = [box for boxes in expected.values() for box in boxes]
    # The photo must put every rule to the test
    assert len(expected["grid"]) > 1
    assert len(expected["cross"]) < 2 * 10
    assert [0, 0, 0, 0] in corners
    settings = ProposalSettings(rules="original", grid_side=SIDE, grid_nms_iou=0.7)
    proposals = propose(SegmentAnything(sam, "sam_vit_toy", "x"), noise_photo(size), clues(size), settings)
    assert (proposals.boxes - torch.tensor([0.0, 0, 1, 1])).tolist() == corners
    sources = [GRID] * len(expected["grid"]) + [COARSE] * 8 + [COARSE_JOINT] * 4 + [FINE] * 4 + [FINE_JOINT] * 2
    assert proposals.sources.tolist() == sources + [CROSS] * len(expected["cross"])


def test_golden_suppression_in_order():
    """The published example and its reverse (docs/method.md, Proposals)."""
    boxes = [[0, 0, 99, 99], [0, 0, 95, 99], [0, 0, 80, 99], [200, 200, 250, 250]]
    assert suppressed_in_order(boxes) == [boxes[0], boxes[2], boxes[3]]
    assert suppressed_in_order(boxes[::-1]) == [boxes[3], boxes[2], boxes[1]]


def test_a_preset_expands_and_every_setting_overrides_it():
    expanded = ProposalSettings(rules="original")
    assert {name: getattr(expanded, name) for name in ORIGINAL_RULES} == dict(ORIGINAL_RULES)
    overridden = ProposalSettings(rules="original", suppress="all", max_proposals=50)
    assert (overridden.suppress, overridden.max_proposals, overridden.suppression) == ("all", 50, "first_seen")
    again = ProposalSettings.model_validate(overridden.model_dump(mode="json"))
    assert again == overridden
    assert ProposalSettings() == ProposalSettings(rules="ours")
