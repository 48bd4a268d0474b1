"""Seeds of OICR and MIST and the targets from them: golden values of docs/method.md, and plain loops that agree."""

import math

import pytest
import torch
from torch import Tensor

from weaksam.models.wsod.box_regression import box_loss
from weaksam.models.wsod.losses import refine_loss
from weaksam.models.wsod.targets import Seeds, assign_rois
from weaksam.stages.wsod.examples import present_labels
from weaksam.stages.wsod.seeds.mist import mist_candidates, mist_seeds
from weaksam.stages.wsod.seeds.oicr import oicr_seeds, oicr_top_seeds
from weaksam.stages.wsod.seeds.overlaps import Overlaps
from weaksam.stages.wsod.seeds.scores import separate_seeds
from weaksam.structures.boxes import pairwise_iou

SEED_RULES = [
    lambda scores, present, iou: oicr_seeds(scores, present, iou),
    lambda scores, present, iou: oicr_top_seeds(scores, present),
    lambda scores, present, iou: mist_seeds([scores], present, Overlaps(iou))[0],
    lambda scores, present, iou: mist_seeds([scores], present, Overlaps(iou), compare="kept")[0],
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
    overlaps = iou.tolist()
    for entry in sorted(entries, key=lambda one: -one[2]):
        if all(overlaps[entry[0]][other[0]] <= 0.5 for other in kept):
            kept.append(entry)
    return kept


def loop_mist(scores: Tensor, tags: Tensor, iou: Tensor, compare: str) -> list[tuple[int, int, float]]:
    found = []
    num = 1 if len(scores) < 10 else int(0.15 * len(scores))
    overlaps = iou.tolist()
    for label in range(scores.shape[1]):
        if tags[label] == 0:
            continue
        column = scores[:, label].tolist()
        ranked = sorted(range(len(column)), key=lambda roi: -column[roi])[:num]
        kept: list[int] = []
        for place, roi in enumerate(ranked):
            others = ranked[:place] if compare == "ranked" else kept
            if all(overlaps[roi][other] < 0.2 for other in others):
                kept.append(roi)
        found += [(roi, label, column[roi]) for roi in kept]
    return found


def loop_targets(iou: Tensor, seeds: list[tuple[int, int, float]]) -> list[tuple[int, float, int]]:
    found = []
    for overlaps in iou.tolist():
        best, overlap = None, -1.0
        for seed in seeds:
            if overlaps[seed[0]] > overlap:
                best, overlap = seed, overlaps[seed[0]]
        found.append((0, 0.0, 0) if best is None else (best[1] + 1 if overlap >= 0.5 else 0, best[2], best[0]))
    return found


def rows(seeds: Seeds) -> list[tuple[int, int, float]]:
    return list(zip(seeds.roi.tolist(), seeds.label.tolist(), seeds.weight.tolist(), strict=True))


SIZES = [
    (120, 4, (1, 0, 1, 1)),
    (240, 2, (1, 1)),
    (61, 1, (1,)),
    (9, 3, (1, 1, 0)),
    (10, 2, (0, 1)),
    (1, 2, (1, 1)),
    (0, 2, (1, 1)),
    (30, 3, (0, 0, 0)),
]
# Of scene scores: as they are, all the same, and only a few different values
KINDS_OF_SCORES = {
    "drawn": lambda scores: scores,
    "equal": torch.ones_like,
    "few": lambda scores: (scores * 2).round() / 2 + 0.1,
}


@pytest.mark.parametrize(("num", "classes", "tags"), SIZES)
@pytest.mark.parametrize("of_scores", KINDS_OF_SCORES.values(), ids=KINDS_OF_SCORES)
@pytest.mark.parametrize("seed", [0, 1])
def test_seeds_and_targets_equal_plain_loops(
    num: int, classes: int, tags: tuple[int, ...], seed: int, of_scores
) -> None:
    boxes, scores, _ = scene(num, classes, seed)
    boxes[1::7] = boxes[0::7][: len(boxes[1::7])]  # twins, so that overlaps are equal, too
    scores, iou = of_scores(scores), pairwise_iou(boxes, boxes)
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
    (seeds,) = mist_seeds([scores], torch.tensor([0]), Overlaps(iou), share=0.2, compare=compare)
    assert seeds.roi.tolist() == wanted


def test_mist_takes_one_candidate_below_ten_proposals() -> None:
    assert [mist_candidates(num, 0.15) for num in range(1, 11)] == [1] * 10
    assert [mist_candidates(num, 0.15) for num in (13, 14, 20, 2000)] == [1, 2, 3, 300]
    assert [mist_candidates(num, 0.5) for num in (9, 10)] == [1, 5]
    for num in range(1, 10):
        _, scores, iou = scene(num, 1, num)
        (seeds,) = mist_seeds([scores], torch.tensor([0]), Overlaps(iou), share=0.9)
        assert seeds.roi.tolist() == [int(scores.argmax())]


def test_branches_in_one_go_equal_one_by_one() -> None:
    generator = torch.Generator().manual_seed(4)
    _, scores, iou = scene(150, 3, 4)
    sources = [scores, torch.rand(150, 3, generator=generator), torch.zeros(150, 3)]
    present, overlaps = torch.tensor([0, 2]), Overlaps(iou)
    for compare in ("ranked", "kept"):
        together = mist_seeds(sources, present, overlaps, share=0.4, compare=compare)
        alone = [mist_seeds([scores], present, Overlaps(iou), share=0.4, compare=compare)[0] for scores in sources]
        assert [rows(seeds) for seeds in together] == [rows(seeds) for seeds in alone]
        assert rows(together[0]) != rows(together[1])
    assert mist_seeds([], present, overlaps) == []


def test_no_rule_looks_at_a_value_off_the_cpu() -> None:
    """Tensors without values ("meta") stop at whatever would have to wait for an accelerator."""
    scores, iou = torch.zeros(50, 3, device="meta"), torch.zeros(50, 50, device="meta")
    present = torch.zeros(2, dtype=torch.int64, device="meta")
    with pytest.raises(NotImplementedError):
        present_labels(present)
    for rule, num in zip(SEED_RULES, (50, 2, 2 * 7, 2 * 7), strict=True):
        seeds = rule(scores, present, iou)
        targets = assign_rois(iou, seeds)
        assert [tuple(column.shape) for column in (*seeds, *targets)] == [(num,)] * 3 + [(50,)] * 3


def test_an_overlap_of_just_one_half_is_foreground_and_suppresses_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4]])
    iou, present = pairwise_iou(boxes, boxes), torch.tensor([0])
    assert iou[0, 1].item() == 0.5
    assert oicr_seeds(torch.tensor([[1.0], [0.95], [0.1]]), present, iou).roi.tolist() == [0, 1]
    targets = assign_rois(iou, oicr_top_seeds(torch.tensor([[1.0], [0.95], [0.1]]), present))
    assert targets.target.tolist() == [1, 1, 0]


@pytest.mark.parametrize("rule", SEED_RULES[:2])
def test_a_class_that_scores_nothing_has_no_oicr_seed(rule) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    seeds = rule(torch.tensor([[0.0, 0.4], [0.0, 0.0]]), torch.tensor([0, 1]), pairwise_iou(boxes, boxes))
    assert rows(seeds) == [(0, 1, pytest.approx(0.4))]


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
