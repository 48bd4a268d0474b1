"""Proposals of one photo: grid and clue prompts on one encoding, without a trace of the order of the points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import block_photo, random_sam
from weaksam.config import UserError
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.prompts import Prompts
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.structures.clue_points import COARSE, COARSE_JOINT, CROSS, FINE, GRID, CluePoints
from weaksam.structures.masks import mask_from_rle


def toy_sam() -> SegmentAnything:
    return SegmentAnything(random_sam(5, decoder_depth=1), "toy", "0")


def test_clues_find_their_objects_in_a_painted_photo():
    clues = CluePoints.of(torch.tensor([[60.0, 40.0], [120.0, 90.0]]), torch.tensor([1, 0]))
    settings = ProposalSettings(grid_side=0, clue_masks=(0, 1, 2))
    proposals = propose(RegionTreeSegmenter(), block_photo(), clues, settings)
    assert proposals.mask_size == (120, 160)
    for wanted in ([30, 20, 90, 60], [100, 70, 150, 110]):
        at = (proposals.boxes - torch.tensor(wanted)).abs().amax(1).argmin()
        assert (proposals.boxes[at] - torch.tensor(wanted)).abs().max() <= 1
        mask = mask_from_rle(proposals.rles[at])
        x1, y1, x2, y2 = wanted
        assert mask[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
        assert mask.sum() <= (x2 - x1 + 2) * (y2 - y1 + 2)
    assert set(proposals.sources.tolist()) == {1}  # one point per class: nothing to join


def test_the_order_of_the_points_does_not_matter():
    clues = CluePoints.of(torch.tensor([[60.0, 40.0], [120.0, 90.0], [50.0, 30.0]]), torch.tensor([1, 0, 1]))
    proposals = propose(RegionTreeSegmenter(), block_photo(), clues)
    reordered = propose(RegionTreeSegmenter(), block_photo(), clues.select(torch.tensor([2, 0, 1])))
    assert torch.equal(proposals.boxes, reordered.boxes)
    assert torch.equal(proposals.sources, reordered.sources)
    assert proposals.rles == reordered.rles


def test_proposals_do_not_depend_on_the_order_of_points_of_any_kind():
    points = torch.tensor([[60.0, 40], [120, 90], [50, 30], [35, 55], [110, 80], [62, 41]])
    labels, kinds = torch.tensor([1, 0, 1, 1, -1, -1]), torch.tensor([COARSE, FINE, COARSE, FINE, CROSS, CROSS])
    clues = CluePoints(points, labels, kinds)
    proposals = propose(RegionTreeSegmenter(), block_photo(), clues)
    assert {COARSE_JOINT, CROSS, GRID} <= set(proposals.sources.tolist())
    reordered = propose(RegionTreeSegmenter(), block_photo(), clues.select(torch.tensor([4, 2, 0, 5, 3, 1])))
    assert torch.equal(proposals.boxes, reordered.boxes)
    assert torch.equal(proposals.sources, reordered.sources)
    assert proposals.rles == reordered.rles


def test_a_photo_is_encoded_once():
    class Counting(RegionTreeSegmenter):
        encodings = 0

        def encode(self, image):
            self.encodings += 1
            return super().encode(image)

    segmenter = Counting()
    points = torch.tensor([[60.0, 40.0], [50.0, 30.0], [120.0, 90.0]])
    propose(segmenter, block_photo(), CluePoints.of(points, torch.tensor([1, 1, 0])))
    assert segmenter.encodings == 1


def test_nothing_found_is_no_proposal_and_not_the_whole_photo():
    flat = np.full((60, 80, 3), 7, dtype=np.uint8)
    proposals = propose(RegionTreeSegmenter(), flat)
    assert proposals.boxes.shape == (0, 4)
    assert proposals.scores.shape == proposals.sources.shape == (0,)
    assert proposals.rles == ()
    unprompted = propose(RegionTreeSegmenter(), block_photo(), settings=ProposalSettings(grid_side=0))
    assert unprompted.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (block_photo().astype(np.float32), r"float32 \(120, 160, 3\)"),
        (block_photo()[..., 0], r"uint8 \(120, 160\)"),
        (np.zeros((9, 9, 4), np.uint8), r"uint8 \(9, 9, 4\)"),
    ],
)
def test_a_photo_of_another_kind_is_refused_in_one_sentence(image, found):
    with pytest.raises(UserError, match=rf"wanted a photo as uint8 \(H, W, 3\), found {found}: convert it"):
        propose(RegionTreeSegmenter(), image)


@pytest.mark.parametrize(
    ("points", "labels", "kinds"),
    [((2, 2), (3,), (2,)), ((2, 2), (2,), (1,)), ((2, 3), (2,), (2,)), ((2,), (), ()), ((1, 1, 2), (1, 1), (1, 1))],
)
def test_clue_points_that_do_not_fit_together_are_refused(points, labels, kinds):
    clues = CluePoints(torch.zeros(points), torch.zeros(labels).long(), torch.ones(kinds).long())
    with pytest.raises(UserError, match=r"wanted clue points \(P, 2\) with labels and kinds \(P,\), found"):
        propose(RegionTreeSegmenter(), block_photo(), clues)


def test_sam_is_prompted_with_grid_points_and_classes():
    sam, image = toy_sam(), block_photo()
    points = torch.tensor([[60.0, 40.0], [50.0, 30.0], [120.0, 90.0]])
    clues = CluePoints.of(points, torch.tensor([1, 1, 0]))
    # Keep everything: 2 masks for each of 3 points and for the class with two points, as far as none is empty
    all_of_them = ProposalSettings(grid_side=0, min_side=0, nms_iou=1.0)
    proposals = propose(sam, image, clues, all_of_them)
    embedding = sam.encode(image)
    single = sam.predict(embedding, Prompts.single_points(points))
    joint = sam.predict(embedding, Prompts(points[None, :2]))
    for source, answer in ((COARSE, single), (COARSE_JOINT, joint)):
        larger = answer.boxes[:, 1:].reshape(-1, 4)
        wanted = larger[larger[:, 2] > 0]
        assert len(wanted) > 0
        assert all((proposals.boxes == box).all(1).any() for box in wanted)
        assert (proposals.sources == source).any()
    assert len(proposals.boxes) <= 2 * 3 + 2 * 1
    assert (proposals.sources > 0).all()
    # With the grid on, its thresholds hold for the grid alone
    strict = ProposalSettings(grid_side=4, min_pred_iou=1.0, min_side=0, nms_iou=1.0)
    loose = ProposalSettings(
        grid_side=4, min_pred_iou=0.0, min_stability=0.0, grid_nms_iou=1.0, min_side=0, nms_iou=1.0
    )
    num_strict = len(propose(sam, image, clues, strict).boxes)
    num_loose = len(propose(sam, image, clues, loose).boxes)
    assert num_loose > num_strict >= len(proposals.boxes)
