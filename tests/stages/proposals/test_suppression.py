"""The rules that choose among candidates, one by one: suppression, sizes, rounding, the limit."""

import pytest
import torch

from tests.helpers import candidates
from weaksam.stages.proposals import ProposalSettings, choose_candidates
from weaksam.stages.proposals.candidates import canonical_order
from weaksam.stages.proposals.suppression import drop_equal_corners, filter_by_size, suppress_duplicates
from weaksam.structures.clue_points import COARSE, CROSS, FINE_JOINT, GRID

# The published example (docs/method.md, Proposals), its inclusive corners made half-open: IoU 0.96, 0.81, 0.84
GOLDEN = [[0, 0, 100, 100], [0, 0, 96, 100], [0, 0, 81, 100], [200, 200, 251, 251]]


def kept(order, **settings) -> list[list[float]]:
    regions = candidates([GOLDEN[i] for i in order], [0.5] * 4, [CROSS] * 4)
    return choose_candidates(regions, (300, 300), ProposalSettings(rules="original", **settings)).boxes.tolist()


def test_first_seen_suppression_gives_the_golden_values_and_depends_on_the_order():
    assert kept([0, 1, 2, 3]) == [GOLDEN[0], GOLDEN[2], GOLDEN[3]]
    assert kept([3, 2, 1, 0]) == [GOLDEN[3], GOLDEN[2], GOLDEN[1]]
    assert kept([3, 2, 1, 0], suppression="best_first") == kept([0, 1, 2, 3], suppression="best_first")


def test_suppression_starts_above_the_limit():
    regions = candidates([[0, 0, 100, 10], [0, 0, 90, 10]], [0.5, 0.5], [CROSS] * 2)  # IoU 0.9 to the pixel
    everything = torch.ones(2, dtype=torch.bool)
    assert len(suppress_duplicates(regions, everything, 0.9, "first_seen")) == 2
    assert len(suppress_duplicates(regions, everything, 0.899, "first_seen")) == 1


def test_only_cross_boxes_are_suppressed_where_that_is_set():
    sources = [GRID, COARSE, FINE_JOINT, CROSS, CROSS]
    regions = candidates([GOLDEN[0]] * 5, [0.1, 0.2, 0.3, 0.4, 0.5], sources)
    original = choose_candidates(regions, (300, 300), ProposalSettings(rules="original"))
    assert original.sources.tolist() == [GRID, COARSE, FINE_JOINT, CROSS]
    assert original.rows.tolist() == [0, 1, 2, 3]
    ours = choose_candidates(regions, (300, 300), ProposalSettings())
    assert ours.rows.tolist() == [4] and ours.sources.tolist() == [FINE_JOINT]  # the highest it stands for


@pytest.mark.parametrize(
    ("rule", "fits"),
    [("none", [1, 2, 19, 20, 21]), ("oicr", [21]), ("mist_voc", [20, 21]), ("mist_coco", [2, 19, 20, 21])],
)
def test_size_rules_of_the_published_detectors(rule, fits):
    sides = [1, 2, 19, 20, 21]
    regions = candidates([[5, 5, 5 + side, 200] for side in sides], [0.5] * 5)
    left = filter_by_size(regions, (300, 300), ProposalSettings(size_rule=rule)).boxes
    assert (left[:, 2] - left[:, 0]).tolist() == fits


def test_rounding_drops_later_boxes_of_the_same_cell():
    # Inclusive corners: the second rounds to the first's cells of 8 pixels, the third does not
    boxes = [[16, 16, 65, 65], [19, 13, 62, 67], [16, 16, 70, 65], [16.4, 16, 65, 65.4]]
    regions = candidates(boxes, [0.5] * 4)
    assert drop_equal_corners(regions, "eighth").rows.tolist() == [0, 2]
    assert drop_equal_corners(regions, "pixel").rows.tolist() == [0, 1, 2]
    assert drop_equal_corners(regions, "none").rows.tolist() == [0, 1, 2, 3]


def test_rounding_does_not_collide_on_large_photos():
    # x1 + 1e3 y1 + 1e6 x2 + 1e9 y2 of the original is the same for both
    regions = candidates([[1000, 0, 1201, 1201], [0, 1, 1201, 1201]], [0.5, 0.5])
    assert len(drop_equal_corners(regions, "pixel")) == 2


def test_in_the_original_order_sizes_come_after_suppression():
    # The narrow box is seen first and stands for the wide one, then a detector finds it too narrow
    boxes, sources = [[0, 0, 20, 100], [0, 0, 21, 100]], [CROSS, CROSS]
    regions = candidates(boxes, [0.9, 0.8], sources)
    assert len(choose_candidates(regions, (300, 300), ProposalSettings(rules="original", size_rule="oicr"))) == 0
    assert choose_candidates(regions, (300, 300), ProposalSettings(size_rule="oicr")).boxes.tolist() == [boxes[1]]


def test_suppression_does_not_depend_on_the_order():
    # The published example in half-open boxes: IoU 0.96, 0.81 and, between the second and third, 0.84
    boxes = [[0, 0, 100, 100], [0, 0, 96, 100], [0, 0, 81, 100], [200, 200, 251, 251]]
    settings = ProposalSettings(nms_iou=0.9, min_side=1)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        tied = choose_candidates(candidates([boxes[i] for i in order], [0.5] * 4), (300, 300), settings)
        # Among equals the first by coordinates stays: of the pair at 0.96 the one that ends at 96
        assert tied.boxes.tolist() == [boxes[2], boxes[1], boxes[3]]
        scores = [0.9, 0.8, 0.7, 0.6]
        scored = choose_candidates(
            candidates([boxes[i] for i in order], [scores[i] for i in order]), (300, 300), settings
        )
        assert scored.boxes.tolist() == [boxes[0], boxes[2], boxes[3]]
        again = choose_candidates(scored, (300, 300), settings)
        assert torch.equal(again.boxes, scored.boxes)


def test_of_equal_boxes_the_clue_prompts_stays():
    order = canonical_order(candidates([[0, 0, 9, 9]] * 3, [0.5] * 3, [0, 2, 1]))
    assert order.sources.tolist() == [2, 1, 0]


def test_small_and_large_boxes_are_dropped_at_the_limits():
    boxes = [[0, 0, 16, 50], [0, 0, 15.9, 50], [10, 0, 100, 90], [0, 0, 100, 91]]
    settings = ProposalSettings(min_side=16, max_area=0.81, nms_iou=1.0)
    kept = choose_candidates(candidates(boxes, [0.9, 0.8, 0.7, 0.6]), (100, 100), settings)
    assert kept.boxes.tolist() == [boxes[0], boxes[2]]


def test_the_grid_never_crowds_out_the_clues():
    boxes = [[i * 20, 0, i * 20 + 18, 18] for i in range(5)]
    regions = candidates(boxes, [0.9, 0.8, 0.7, 0.2, 0.1], [0, 0, 0, 1, 2])
    kept = choose_candidates(regions, (100, 100), ProposalSettings(max_proposals=3))
    assert kept.sources.tolist() == [0, 1, 2]
    assert kept.scores.tolist() == pytest.approx([0.9, 0.2, 0.1])
