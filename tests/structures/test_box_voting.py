"""Box voting: hand-counted votes, and a plain loop beside the fast form."""

import pytest
import torch

from weaksam.structures.box_voting import NO_VOTING, BoxVotingSettings, voted_boxes, voted_detections
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import Proposals


def plain_votes(boxes, candidates, weights, least_iou, power, share):
    """The same, candidate by candidate in Python numbers."""
    moved = []
    for box in boxes.tolist():
        total, summed = 0.0, [0.0] * 4
        for candidate, weight in zip(candidates.tolist(), weights.tolist(), strict=True):
            iou = float(pairwise_iou(torch.tensor([box]).double(), torch.tensor([candidate]).double()))
            if iou >= least_iou:
                total += iou**power * weight
                summed = [old + iou**power * weight * side for old, side in zip(summed, candidate, strict=True)]
        moved.append([(1 - share) * b + share * s / total for b, s in zip(box, summed, strict=True)] if total else box)
    return torch.tensor(moved).reshape(-1, 4)


def test_votes_by_hand():
    box = torch.tensor([[0.0, 0, 10, 10]])
    # IoU 1 and 0.8 (80 of 100 pixels), 0.5 below the limit: the vote of x2 is (10 + 2 * 0.8 * 8) / (1 + 1.6)
    candidates = torch.tensor([[0.0, 0, 10, 10], [0, 0, 8, 10], [0, 0, 5, 10]])
    weights = torch.tensor([1.0, 2.0, 9.0])
    vote = (10 + 1.6 * 8) / 2.6
    assert voted_boxes(box, candidates, weights, power=1, share=1)[0].tolist() == pytest.approx([0, 0, vote, 10])
    assert voted_boxes(box, candidates, weights, power=1)[0, 2].item() == pytest.approx((10 + vote) / 2)
    assert torch.equal(voted_boxes(box, candidates, weights, share=0), box)


def test_a_box_without_votes_stays_and_no_box_gives_none():
    box = torch.tensor([[0.0, 0, 10, 10]])
    far = torch.tensor([[50.0, 50, 60, 60]])
    assert torch.equal(voted_boxes(box, far, torch.ones(1)), box)
    assert torch.equal(voted_boxes(box, box + 1, torch.zeros(1)), box)
    assert torch.equal(voted_boxes(box, torch.zeros(0, 4), torch.zeros(0)), box)
    assert voted_boxes(torch.zeros(0, 4), far, torch.ones(1)).shape == (0, 4)


def test_weights_may_differ_from_box_to_box():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    candidates = torch.tensor([[0.0, 0, 10, 8], [0, 0, 8, 10]])
    moved = voted_boxes(boxes, candidates, torch.eye(2), share=1)
    assert torch.equal(moved, candidates)


def test_the_fast_form_is_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=generator) * 4
    candidates = torch.cat([corners, corners + 10 + torch.rand(40, 2, generator=generator) * 6], dim=1)
    weights = torch.rand(40, generator=generator)
    wanted = plain_votes(candidates[:7], candidates, weights, 0.6, 4, 0.5)
    moved = voted_boxes(candidates[:7], candidates, weights)
    assert torch.allclose(moved, wanted.float(), atol=1e-4)
    assert bool((moved[:, 2:] > moved[:, :2]).all())


def test_detections_vote_over_the_best_proposals():
    detections = Instances(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([2]), torch.tensor([0.5]))
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 9], [0, 0, 10, 6]])
    proposals = Proposals.of(boxes, torch.tensor([0.5, -1.0, 0.9]))  # a negative score has no vote
    settings = BoxVotingSettings(power=0, share=1, num_proposals=2)
    moved = voted_detections(detections, proposals, settings)
    assert moved.boxes.tolist() == [[0, 0, 10, 8]] and moved.scores is detections.scores
    assert voted_detections(detections, proposals, NO_VOTING) is detections
    assert torch.equal(voted_detections(detections, Proposals.none(), settings).boxes, detections.boxes)
    assert len(voted_detections(Instances.empty(scored=True), proposals, settings)) == 0
