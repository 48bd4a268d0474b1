"""The ceiling of the weak detector: RoI labels from true boxes, by hand, and what they change in its losses."""

import pytest
import torch

from weaksam.models.roi.box_deltas import encode_boxes
from weaksam.models.wsod.head import HeadOutput
from weaksam.models.wsod.targets import empty_seeds
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.examples import TrainingExample
from weaksam.stages.wsod.losses import photo_losses
from weaksam.stages.wsod.seeds.true_boxes import true_targets
from weaksam.structures.instances import Instances

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [50, 50, 60, 60]])


def test_each_roi_takes_the_true_box_it_overlaps_most() -> None:
    true = torch.tensor([[50.0, 50, 60, 58], [0, 0, 10, 10]])
    found = true_targets(BOXES, true, torch.tensor([2, 0]))
    assert found.target.tolist() == [1, 1, 0, 3]  # IoU 1, 0.5, 0.4, 0.8
    assert found.seed.tolist() == [1, 1, 1, 0]
    assert found.weight.tolist() == [1.0] * 4
    assert true_targets(BOXES, true, torch.tensor([2, 0]), foreground_iou=0.6).target.tolist() == [1, 0, 0, 3]


def test_without_a_true_box_all_is_background_and_without_rois_nothing_is() -> None:
    found = true_targets(BOXES, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert found.target.tolist() == [0] * 4 and found.weight.tolist() == [1.0] * 4
    assert len(true_targets(BOXES[:0], BOXES, torch.zeros(4, dtype=torch.int64)).target) == 0


@pytest.mark.parametrize("seeds", ["relocation", "mist", "pcl"])
def test_all_branches_learn_the_true_boxes_whatever_seeds_are_set(seeds: str) -> None:
    true = Instances(torch.tensor([[0.0, 0, 12, 10]]), torch.tensor([0]))
    example = TrainingExample(None, BOXES, torch.tensor([1.0]), torch.tensor([0]), empty_seeds(), truth=true)  # type: ignore[arg-type]
    logits = torch.zeros(4, 2)
    deltas = torch.zeros(4, 2, 4)
    output = HeadOutput(torch.full((4, 1), 0.25), (logits, logits), (deltas, deltas))
    settings = WsodSettings(seeds=seeds, first_branch_weight=1.0)
    losses = photo_losses(output, example, settings)
    # Every RoI weighs 1 and has probability 1/2
    assert losses["refine1"].item() == losses["refine2"].item() == pytest.approx(0.6931, abs=1e-3)
    wanted = encode_boxes(BOXES[:1], true.boxes).abs()  # of RoI 0 alone: IoU 0.83; RoI 1 has 0.42
    smooth = torch.where(wanted < 1, wanted.square() / 2, wanted - 0.5).sum()
    assert losses["box2"].item() == pytest.approx(smooth.item() / 4, rel=1e-5)
    no_label = torch.zeros(0, dtype=torch.int64)
    nothing = TrainingExample(
        None,  # type: ignore[arg-type]
        BOXES,
        torch.tensor([0.0]),
        no_label,
        empty_seeds(),
        truth=Instances.empty(),
    )
    assert photo_losses(output, nothing, settings)["box1"].item() == 0.0
