"""Seeds, targets and box offsets: the specification's golden values, and plain loops that must agree."""

import math

import pytest
import torch
from torch import Tensor

from weaksam.models.box_deltas import box_loss, decode_boxes, encode_boxes, mirrored_deltas
from weaksam.models.oicr import Seeds, label_rois, refine_loss, top_share_seeds
from weaksam.models.wsod_targets import (
    Targets,
    assign_rois,
    kept_greedily,
    mist_candidates,
    mist_seeds,
    oicr_seeds,
    oicr_top_seeds,
    present_labels,
)
from weaksam.structures.boxes import pairwise_iou

SEED_RULES = [
    lambda scores, present, iou: oicr_seeds(scores, present, iou),
    lambda scores, present, iou: oicr_top_seeds(scores, present),
    lambda scores, present, iou: mist_seeds(scores, present, iou),
    lambda scores, present, iou: mist_seeds(scores, present, iou, compare="kept"),
]


def scene(num: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Crowded boxes ``(num, 4)``, scores ``(num, classes)`` with ties, and their pairwise IoU."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(num, 2, generator=generator) * 30], dim=1)
    scores = (torch.rand(num, classes, generator=generator) * 20).round() / 20
    return boxes, scores, pairwise_iou(boxes, boxes)


def loop_top(scores: Tensor, tags: Tensor) -> list[tuple[int, int, float]]:
    found = []
    for label in range(scores.shape[1]):
        best = -1
        for roi in range(len(scores)):
            if tags[label] > 0 and scores[roi, label] > (scores[best, label] if best >= 0 else 0):
                best = roi
        if best >= 0:
            found.append((best, label, scores[best, label].item()))
    return found


def loop_oicr(scores: Tensor, tags: Tensor, iou: Tensor) -> list[tuple[int, int, float]]:
    entries = []
    for roi in range(len(scores)):
        for label in range(scores.shape[1]):
            score, best = scores[roi, label], scores[:, label].max()
            if tags[label] > 0 and score > 0 and score >= 0.9 * best:
                entries.append((roi, label, score.item()))
    kept: list[tuple[int, int, float]] = []
    for entry in sorted(entries, key=lambda one: -one[2]):
        if all(iou[entry[0], other[0]] <= 0.5 for other in kept):
            kept.append(entry)
    return kept


def loop_mist(scores: Tensor, tags: Tensor, iou: Tensor, compare: str) -> list[tuple[int, int, float]]:
    found = []
    num = 1 if len(scores) < 10 else int(0.15 * len(scores))
    for label in range(scores.shape[1]):
        if tags[label] == 0:
            continue
        ranked = sorted(range(len(scores)), key=lambda roi: -scores[roi, label].item())[:num]
        kept: list[int] = []
        for place, roi in enumerate(ranked):
            others = ranked[:place] if compare == "ranked" else kept
            if all(iou[roi, other] < 0.2 for other in others):
                kept.append(roi)
        found += [(roi, label, scores[roi, label].item()) for roi in kept]
    return found


def loop_targets(iou: Tensor, seeds: list[tuple[int, int, float]]) -> list[tuple[int, float, int]]:
    found = []
    for roi in range(len(iou)):
        best, overlap = None, -1.0
        for seed in seeds:
            if iou[roi, seed[0]] > overlap:
                best, overlap = seed, iou[roi, seed[0]].item()
        found.append((0, 0.0, 0) if best is None else (best[1] + 1 if overlap >= 0.5 else 0, best[2], best[0]))
    return found


def rows(seeds: Seeds) -> list[tuple[int, int, float]]:
    return list(zip(seeds.roi.tolist(), seeds.label.tolist(), seeds.weight.tolist(), strict=True))


SIZES = [(120, 4, (1, 0, 1, 1)), (61, 1, (1,)), (9, 3, (1, 1, 0)), (10, 2, (0, 1)), (1, 2, (1, 1)), (30, 3, (0, 0, 0))]


@pytest.mark.parametrize(("num", "classes", "tags"), SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_seeds_and_targets_equal_plain_loops(num: int, classes: int, tags: tuple[int, ...], seed: int) -> None:
    _, scores, iou = scene(num, classes, seed)
    vector = torch.tensor(tags, dtype=torch.float32)
    loops = [
        loop_oicr(scores, vector, iou),
        loop_top(scores, vector),
        loop_mist(scores, vector, iou, "ranked"),
        loop_mist(scores, vector, iou, "kept"),
    ]
    for rule, wanted in zip(SEED_RULES, loops, strict=True):
        seeds = rule(scores, present_labels(vector), iou)
        assert rows(seeds) == wanted
        targets = assign_rois(iou, seeds)
        assert list(zip(*(column.tolist() for column in targets), strict=True)) == loop_targets(iou, wanted)


def test_the_crowded_scene_tells_the_rules_apart() -> None:
    _, scores, iou = scene(120, 4, 0)
    found = [rows(rule(scores, torch.tensor([0, 2, 3]), iou)) for rule in SEED_RULES]
    assert all(found[i] != found[j] for i in range(4) for j in range(i))


@pytest.mark.parametrize("rule", SEED_RULES)
def test_no_proposal_teaches_nothing(rule) -> None:
    iou = torch.zeros(0, 0)
    seeds = rule(torch.zeros(0, 3), torch.tensor([0, 2]), iou)
    targets = assign_rois(iou, seeds)
    assert [len(column) for column in (*seeds, *targets)] == [0] * 6
    assert refine_loss(torch.zeros(0, 4), targets).item() == 0.0
    assert box_loss(torch.zeros(0, 4, 4), targets, torch.zeros(0, 4)).item() == 0.0


def chain() -> tuple[Tensor, Tensor]:
    """Twenty boxes, the best four a chain of three (IoU 0.25) and one apart, and scores ``(20, 1)``."""
    boxes = torch.tensor([[1000.0 + 20 * place, 500, 1010 + 20 * place, 510] for place in range(20)])
    boxes[0] = torch.tensor([0.0, 0, 10, 10])
    boxes[1] = torch.tensor([6.0, 0, 16, 10])  # shares 4 of 16
    boxes[2] = torch.tensor([12.0, 0, 22, 10])
    boxes[3] = torch.tensor([100.0, 0, 110, 10])
    scores = torch.full((20, 1), 0.1)
    scores[:4, 0] = torch.tensor([0.9, 0.8, 0.7, 0.6])
    return boxes, scores


@pytest.mark.parametrize(("compare", "wanted"), [("ranked", [0, 3]), ("kept", [0, 2, 3])])
def test_mist_golden_chain(compare, wanted) -> None:
    boxes, scores = chain()
    iou = pairwise_iou(boxes, boxes)
    assert iou[0, 1].item() == pytest.approx(0.25)
    assert mist_seeds(scores, torch.tensor([0]), iou, share=0.2, compare=compare).roi.tolist() == wanted


def test_mist_takes_one_candidate_below_ten_proposals() -> None:
    assert [mist_candidates(num, 0.15) for num in range(1, 11)] == [1] * 10
    assert [mist_candidates(num, 0.15) for num in (13, 14, 20, 2000)] == [1, 2, 3, 300]
    assert [mist_candidates(num, 0.5) for num in (9, 10)] == [1, 5]
    for num in range(1, 10):
        _, scores, iou = scene(num, 1, num)
        assert mist_seeds(scores, torch.tensor([0]), iou, share=0.9).roi.tolist() == [int(scores.argmax())]


def test_a_long_chain_is_suppressed_link_by_link() -> None:
    near = torch.eye(200, dtype=torch.bool) | torch.eye(200, dtype=torch.bool).roll(1, 0)
    near[0, -1] = False
    keep = kept_greedily(near, torch.ones(200, dtype=torch.bool))
    assert keep.nonzero()[:, 0].tolist() == list(range(0, 200, 2))
    first_out = torch.ones(200, dtype=torch.bool)
    first_out[0] = False
    assert kept_greedily(near, first_out).nonzero()[:, 0].tolist() == list(range(1, 200, 2))


def test_the_released_rule_agrees_with_the_one_that_loops_over_the_union() -> None:
    boxes, scores, iou = scene(80, 3, 5)
    scores, tags = scores + torch.rand(80, 3) / 100, torch.tensor([1.0, 1.0, 0.0])
    old, new = top_share_seeds(scores, tags, boxes), oicr_seeds(scores, present_labels(tags), iou)
    assert rows(new) == rows(old)
    targets, labels = assign_rois(iou, new), label_rois(iou, old)
    assert targets.target.tolist() == labels.target.tolist()
    assert targets.weight.tolist() == labels.weight.tolist()


def test_empty_places_never_label_a_roi() -> None:
    """On an accelerator the seeds keep a fixed length; places without a seed have label -1."""
    iou = torch.eye(3)
    seeds = Seeds(torch.tensor([0, 1, 2]), torch.tensor([-1, 4, -1]), torch.tensor([0.9, 0.5, 0.8]))
    targets = assign_rois(iou, seeds)
    assert targets.target.tolist() == [0, 5, 0]
    assert targets.weight.tolist() == [0.5, 0.5, 0.5]
    nothing = assign_rois(iou, seeds._replace(label=torch.tensor([-1, -1, -1])))
    assert (nothing.target.tolist(), nothing.weight.tolist(), nothing.seed.tolist()) == ([0] * 3, [0.0] * 3, [0] * 3)


def test_offsets_by_hand_and_back() -> None:
    proposal, wanted = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 5, 25, 15]])
    offsets = encode_boxes(proposal, wanted)
    # centre (5, 10) to (15, 10): one width; width 10 to 20, height 20 to 10
    assert offsets[0].tolist() == pytest.approx([10 * 1.0, 0.0, 5 * math.log(2), -5 * math.log(2)])
    assert decode_boxes(proposal, offsets[:, None])[0, 0].tolist() == pytest.approx(wanted[0].tolist(), abs=1e-4)
    assert decode_boxes(proposal, torch.zeros(1, 3, 4)).tolist() == [[[0.0, 0, 10, 20]] * 3]
    assert decode_boxes(torch.zeros(0, 4), torch.zeros(0, 3, 4)).shape == (0, 3, 4)
    assert encode_boxes(torch.zeros(1, 4), wanted).isfinite().all()


def test_offsets_of_the_mirror_image() -> None:
    boxes, _, _ = scene(2, 1, 0)
    mirrored = torch.stack([100 - boxes[:, 2], boxes[:, 1], 100 - boxes[:, 0], boxes[:, 3]], dim=1)
    seen = encode_boxes(mirrored[:1], mirrored[1:])
    assert mirrored_deltas(seen)[0].tolist() == pytest.approx(encode_boxes(boxes[:1], boxes[1:])[0].tolist(), abs=1e-4)


def test_box_loss_equals_a_plain_loop_and_leaves_background_alone() -> None:
    boxes, scores, iou = scene(60, 2, 7)
    targets = assign_rois(iou, oicr_seeds(scores, torch.tensor([0, 1]), iou))
    deltas = torch.randn(60, 3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    total = 0.0
    for roi in range(60):
        label = int(targets.target[roi])
        if label > 0:
            wanted = encode_boxes(boxes[roi : roi + 1], boxes[int(targets.seed[roi])][None])[0]
            for place in range(4):
                gap = abs(deltas[roi, label, place].item() - wanted[place].item())
                total += targets.weight[roi].item() * (0.5 * gap**2 if gap < 1 else gap - 0.5)
    loss = box_loss(deltas, targets, boxes)
    assert total > 0 and loss.item() == pytest.approx(total / 60, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, deltas)
    assert gradient[targets.target == 0].abs().max() == 0
    assert gradient[:, 0].abs().max() == 0


def test_box_loss_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    targets = Targets(torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), torch.tensor([0, 0]))
    deltas = torch.zeros(2, 2, 4)
    deltas[0, 1] = torch.tensor([3.0, 0.5, 0.0, 0.0])  # 2.5 + 0.125
    assert box_loss(deltas, targets, boxes).item() == pytest.approx(0.5 * 2.625 / 2)
