"""WSDDN and OICR on the golden values of docs/method.md and on cases worked out by hand."""

import math

import pytest
import torch

from weaksam.models.wsod.head import WsodHead, mean_class_probabilities
from weaksam.models.wsod.losses import refine_loss
from weaksam.models.wsod.targets import Seeds, Targets, assign_rois, empty_seeds
from weaksam.models.wsod.wsddn import image_scores, tags_as_vector, wsddn_loss, wsddn_scores
from weaksam.stages.wsod.examples import present_labels
from weaksam.stages.wsod.seeds.oicr import oicr_seeds
from weaksam.stages.wsod.seeds.scores import separate_seeds
from weaksam.structures.boxes import pairwise_iou


def test_wsddn_golden_values() -> None:
    scores = wsddn_scores(torch.tensor([[2.0, 0], [0, 1], [1, 1]]), torch.tensor([[1.0, 0], [0, 2], [0, 0]]))
    assert image_scores(scores).tolist() == pytest.approx([0.670413, 0.641282], abs=1e-6)
    assert wsddn_loss(scores, torch.tensor([1.0, 0.0])).item() == pytest.approx(1.425081, abs=1e-5)


def test_wsddn_without_rois_teaches_nothing() -> None:
    scores = wsddn_scores(torch.zeros(0, 3), torch.zeros(0, 3))
    assert wsddn_loss(scores, torch.tensor([1.0, 0.0, 1.0])).item() == 0.0


def test_wsddn_loss_is_finite_where_a_tagged_class_has_no_evidence() -> None:
    assert wsddn_loss(torch.zeros(4, 2), torch.ones(2)).item() == pytest.approx(-2 * math.log(1e-6), rel=1e-4)


def test_wsddn_loss_as_in_mist_is_the_mean_over_the_columns() -> None:
    scores = wsddn_scores(torch.tensor([[2.0, 0], [0, 1], [1, 1]]), torch.tensor([[1.0, 0], [0, 2], [0, 0]]))
    tags = torch.tensor([1.0, 0.0])
    assert wsddn_loss(scores, tags, reduction="mean").item() == pytest.approx(0.712541, abs=1e-5)
    # Background, column 0, has tag 0: its -log(1 - 0.5) is one more term of the mean
    with_background = torch.cat([torch.full((3, 1), 0.5 / 3), scores], dim=1)
    loss = wsddn_loss(with_background, tags_as_vector((1,), 3), eps=1e-8, reduction="mean")
    assert loss.item() == pytest.approx((math.log(2) + 1.425081) / 3, abs=1e-5)


@pytest.mark.parametrize("total", [1.0, 1.0 - 2.0**-24, 1.0 - 2.0**-23])
def test_wsddn_loss_of_a_sure_false_class_is_finite_with_a_usable_gradient(total: float) -> None:
    scores = torch.tensor([[total], [0.0]], requires_grad=True)
    loss = wsddn_loss(scores, torch.zeros(1), eps=1e-8, reduction="mean")
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(2.0**-23), rel=1e-6)
    assert scores.grad.abs().max() <= 2.0**23


def test_wsddn_loss_passes_nan_on_so_that_the_training_can_name_the_image() -> None:
    scores = torch.tensor([[0.5, float("nan")], [0.1, 0.2]])
    assert math.isnan(wsddn_loss(scores, torch.tensor([1.0, 0.0])).item())
    assert math.isnan(wsddn_loss(scores, torch.tensor([1.0, 0.0]), eps=1e-8, reduction="mean").item())


def test_tags_as_vector() -> None:
    assert tags_as_vector((0, 2), 3).tolist() == [1.0, 0.0, 1.0]
    assert tags_as_vector((), 2).tolist() == [0.0, 0.0]


BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [40, 40, 50, 50]])
SCORES = torch.tensor([[1.0, 0.2], [0.95, 0.1], [0.91, 0.05], [0.5, 0.9]])


def oicr(scores: torch.Tensor, tags: torch.Tensor, boxes: torch.Tensor, share: float = 0.9) -> Seeds:
    return oicr_seeds(scores, present_labels(tags), pairwise_iou(boxes, boxes), share=share)


def test_oicr_takes_all_near_the_best_and_suppresses() -> None:
    seeds = oicr(SCORES, torch.tensor([1.0, 0.0]), BOXES)
    assert seeds.roi.tolist() == [0, 2]  # RoI 1 overlaps RoI 0 by 0.9
    assert seeds.label.tolist() == [0, 0]
    assert seeds.weight.tolist() == pytest.approx([1.0, 0.91])


def test_share_one_is_the_single_top_box_of_every_tag() -> None:
    seeds = oicr(SCORES, torch.ones(2), BOXES, share=1.0)
    assert sorted(zip(seeds.roi.tolist(), seeds.label.tolist(), strict=True)) == [(0, 0), (3, 1)]


def test_class_agnostic_nms_lets_the_better_class_win_and_the_separate_rule_does_not() -> None:
    scores = torch.tensor([[0.8, 0.1], [0.1, 0.6], [0.0, 0.0], [0.0, 0.0]])
    tags = torch.ones(2)
    assert oicr(scores, tags, BOXES).roi.tolist() == [0]
    assert separate_seeds(scores, tags, BOXES, share=0.9, nms_iou=0.5).roi.tolist() == [0, 1]


@pytest.mark.parametrize("rule", [oicr, lambda s, t, b: separate_seeds(s, t, b, share=0.9, nms_iou=0.5)])
def test_no_roi_or_no_tag_gives_no_seed(rule) -> None:
    assert len(rule(torch.zeros(0, 2), torch.ones(2), torch.zeros(0, 4)).roi) == 0
    assert len(rule(SCORES, torch.zeros(2), BOXES).roi) == 0


def test_rois_take_the_class_and_weight_of_their_best_seed() -> None:
    seeds = Seeds(torch.tensor([0, 3]), torch.tensor([1, 0]), torch.tensor([0.7, 0.4]))
    labels = assign_rois(pairwise_iou(BOXES, BOXES), seeds)
    assert labels.target.tolist() == [2, 2, 0, 1]
    assert labels.weight.tolist() == pytest.approx([0.7, 0.7, 0.7, 0.4])


def test_without_seeds_every_weight_is_zero() -> None:
    labels = assign_rois(pairwise_iou(BOXES, BOXES), empty_seeds())
    assert labels.weight.tolist() == [0.0] * 4
    assert refine_loss(torch.randn(4, 3), labels).item() == 0.0


def test_refine_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    labels = Targets(torch.tensor([1, 0]), torch.tensor([1.0, 0.5]), torch.tensor([0, 0]))
    wanted = (-math.log(0.75) - 0.5 * math.log(0.5)) / 2
    assert refine_loss(logits, labels).item() == pytest.approx(wanted, abs=1e-5)
    none = torch.zeros(0, dtype=torch.int64)
    assert refine_loss(torch.zeros(0, 3), Targets(none, torch.zeros(0), none)).item() == 0.0


def test_labels_and_loss_equal_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(40, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(40, 2, generator=generator) * 40], dim=1)
    scores, tags = torch.rand(40, 3, generator=generator), torch.tensor([1.0, 0.0, 1.0])
    iou = pairwise_iou(boxes, boxes)
    seeds = separate_seeds(scores, tags, boxes, share=0.5, nms_iou=0.3)
    logits = torch.randn(40, 4, generator=generator)
    total = 0.0
    for roi in range(40):
        best, overlap = 0, -1.0
        for number, index in enumerate(seeds.roi.tolist()):
            if iou[roi, index] > overlap:
                best, overlap = number, iou[roi, index].item()
        target = int(seeds.label[best]) + 1 if overlap >= 0.5 else 0
        total -= seeds.weight[best].item() * math.log(logits[roi].softmax(0)[target].item() + 1e-6)
    assert refine_loss(logits, assign_rois(iou, seeds)).item() == pytest.approx(total / 40, rel=1e-5)


def test_the_head_scores_rois_and_no_roi() -> None:
    torch.manual_seed(0)
    head = WsodHead(12, 8, 3, num_branches=2, roi_size=2, hidden=16).eval()
    rois = torch.randn(5, 8 * 4)
    (output,) = head(rois[:2])
    assert output.scores.shape == (2, 3)
    assert [tuple(logits.shape) for logits in output.refine] == [(2, 4), (2, 4)]
    assert mean_class_probabilities(output.refine).sum(dim=1).le(1).all()
    assert head(rois[:0])[0].scores.shape == (0, 3)
    first, none, rest = head(rois, [2, 0, 3])  # photo by photo
    torch.testing.assert_close(first.scores, output.scores)
    torch.testing.assert_close(rest.scores, head(rois[2:])[0].scores)
    assert len(none.scores) == 0
