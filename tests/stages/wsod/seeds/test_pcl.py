"""PCL: cluster centres by hand and by plain loops, and the loss of every cluster as one bag."""

import math

import pytest
import torch
from torch import Tensor

from weaksam.models.wsod.losses import pcl_loss
from weaksam.models.wsod.targets import Targets, assign_rois
from weaksam.stages.wsod.examples import present_labels
from weaksam.stages.wsod.seeds.pcl import graph_centres, pcl_seeds, top_ranking
from weaksam.structures.boxes import pairwise_iou

# Boxes 0 to 2 lie in a row, each joined to the next (IoU 0.6) but 0 not to 2 (IoU 1/3); box 3 is alone
BOXES = torch.tensor([[0.0, 0, 12, 10], [3, 0, 15, 10], [6, 0, 18, 10], [50, 50, 60, 60]])
IOU = pairwise_iou(BOXES, BOXES)


def scene(num: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores ``(num, classes)`` with ties, and the pairwise IoU of crowded boxes."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(num, 2, generator=generator) * 30], dim=1)
    return (torch.rand(num, classes, generator=generator) ** 3 * 40).round() / 40, pairwise_iou(boxes, boxes)


def listed(seeds) -> list[tuple[int, int, float]]:
    return list(zip(*(column.tolist() for column in seeds), strict=True))


def loop_top_ranking(scores: list[float]) -> list[int]:
    low, high = min(scores), max(scores)
    means = [low, (low + high) / 2, high]
    while True:
        groups: list[list[float]] = [[], [], []]
        for score in scores:
            groups[sum(score >= (means[i] + means[i + 1]) / 2 for i in range(2))].append(score)
        moved = [sum(group) / len(group) if group else mean for group, mean in zip(groups, means, strict=True)]
        if moved == pytest.approx(means, abs=1e-12):
            return [roi for roi, score in enumerate(scores) if score >= (means[1] + means[2]) / 2]
        means = moved


def loop_graph(scores: Tensor, tags: Tensor, iou: Tensor) -> list[tuple[int, int, float]]:
    found = []
    for label in range(scores.shape[1]):
        score = scores[:, label].tolist()
        nodes = [roi for roi in loop_top_ranking(score) if score[roi] > 0] if tags[label] > 0 else []
        for _ in range(5):
            if not nodes:
                break
            joined = {roi: [other for other in nodes if other == roi or iou[roi, other] > 0.4] for roi in nodes}
            centre = max(nodes, key=lambda roi: (len(joined[roi]), score[roi], -roi))
            found.append((centre, label, max(score[roi] for roi in joined[centre])))
            nodes = [roi for roi in nodes if roi not in joined[centre]]
    return found


def loop_loss(logits: Tensor, targets: Targets) -> float:
    probability = logits.softmax(dim=1)
    clusters: dict[int, list[int]] = {}
    total = 0.0
    for roi, (target, weight, seed) in enumerate(zip(*(column.tolist() for column in targets), strict=True)):
        if target > 0:
            clusters.setdefault(seed, []).append(roi)
        else:
            total -= weight * math.log(probability[roi, 0].item() + 1e-6)
    for members in clusters.values():
        mean = sum(probability[roi, targets.target[roi]].item() for roi in members) / len(members)
        total -= targets.weight[members[0]].item() * len(members) * math.log(mean + 1e-6)
    return total / len(logits)


def test_kmeans_picks_the_highest_of_three_groups() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.0, 0.8, 0.45], [0.3, 0.3, 0.3, 0.3, 0.3, 0.3], [0, 0, 0, 0, 0, 1.0]])
    assert top_ranking(scores).tolist() == [
        [False, True, False, False, True, False],
        [True] * 6,  # nothing tells equal scores apart
        [False] * 5 + [True],
    ]
    assert not top_ranking(torch.zeros(1, 4)).any()


def test_kmeans_moves_its_means_until_nothing_changes() -> None:
    # Means 0, 0.5, 1 put 0.7 in the middle (border 0.75), whose mean falls to 0.45, which frees 0.7 (border 0.665)
    assert top_ranking(torch.tensor([[0.0, 0.3, 0.35, 0.7, 0.76, 1.0]])).tolist() == [[False] * 3 + [True] * 3]
    for seed in range(20):
        scores, _ = scene(50, 1, seed)
        assert top_ranking(scores.T)[0].nonzero()[:, 0].tolist() == loop_top_ranking(scores[:, 0].tolist())


def test_the_node_of_most_edges_takes_the_highest_score_of_its_neighbours() -> None:
    boxes = torch.cat([BOXES, torch.tensor([[80.0, 80, 90, 90]])])
    scores = torch.tensor([[0.8], [0.7], [0.75], [0.78], [0.0]])  # the last one is far from top-ranking
    seeds = pcl_seeds(scores, torch.tensor([0]), pairwise_iou(boxes, boxes))
    assert seeds.roi.tolist() == [1, 3]
    assert seeds.weight.tolist() == pytest.approx([0.8, 0.78])


def test_nodes_are_the_top_ranking_rois_and_centres_at_most_so_many() -> None:
    scores = torch.tensor([[0.8], [0.1], [0.75], [0.78]])
    assert pcl_seeds(scores, torch.tensor([0]), IOU).roi.tolist() == [0, 3, 2]  # without 1 nothing joins 0 and 2
    assert pcl_seeds(scores, torch.tensor([0]), IOU, max_centres=2).roi.tolist() == [0, 3]


def test_the_simple_rule_is_the_highest_roi_of_every_class() -> None:
    scores = torch.tensor([[0.8, 0.1], [0.7, 0.9], [0.75, 0.0], [0.78, 0.9]])
    assert listed(pcl_seeds(scores, torch.tensor([0, 1]), IOU, centres="highest")) == [
        (0, 0, pytest.approx(0.8)),
        (1, 1, pytest.approx(0.9)),
    ]


@pytest.mark.parametrize("seed", range(8))
def test_graph_centres_equal_a_plain_loop(seed: int) -> None:
    scores, iou = scene(60, 4, seed)
    tags = torch.tensor([1.0, 0, 1, 1])
    wanted = loop_graph(scores, tags, iou)
    assert listed(pcl_seeds(scores, present_labels(tags), iou)) == wanted
    assert len(wanted) > 3


@pytest.mark.parametrize("centres", ["graph", "highest"])
def test_nothing_and_next_to_nothing(centres) -> None:
    none, one = torch.zeros(0, dtype=torch.int64), torch.tensor([1])
    assert listed(pcl_seeds(torch.zeros(0, 2), one, torch.zeros(0, 0), centres=centres)) == []
    assert listed(pcl_seeds(torch.rand(4, 2), none, IOU, centres=centres)) == []
    assert listed(pcl_seeds(torch.zeros(4, 2), one, IOU, centres=centres)) == []
    single = pcl_seeds(torch.tensor([[0.1, 0.25]]), one, torch.ones(1, 1), centres=centres)
    assert listed(single) == [(0, 1, 0.25)]
    # A box without area overlaps nothing, not even itself, and is a centre all the same
    assert pcl_seeds(torch.tensor([[0.1, 0.25]]), one, torch.zeros(1, 1), centres=centres).roi.tolist() == [0]


def test_the_loss_of_two_clusters_and_the_background_by_hand() -> None:
    logits = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5], [0.9, 0.1]]).log()
    targets = Targets(torch.tensor([1, 1, 1, 0]), torch.tensor([0.7, 0.7, 0.4, 0.4]), torch.tensor([1, 1, 2, 2]))
    wanted = -(0.7 * 2 * math.log((0.8 + 0.4) / 2) + 0.4 * math.log(0.5) + 0.4 * math.log(0.9)) / 4
    assert pcl_loss(logits, targets).item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_equal_a_plain_loop(seed: int) -> None:
    scores, iou = scene(60, 4, seed)
    targets = assign_rois(iou, pcl_seeds(scores, torch.tensor([0, 2, 3]), iou))
    assert (targets.target == 0).any() and len(targets.seed[targets.target > 0].unique()) > 2
    logits = torch.randn(60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    assert pcl_loss(logits, targets).item() == pytest.approx(loop_loss(logits, targets), rel=1e-9)
    assert torch.autograd.gradcheck(lambda values: pcl_loss(values, targets), (logits,))


def test_a_bag_leaves_open_which_of_its_rois_is_the_object() -> None:
    """One sure RoI satisfies its cluster half; a loss per RoI would blame the other without end."""
    targets = Targets(torch.tensor([1, 1]), torch.ones(2), torch.tensor([0, 0]))
    logits = torch.tensor([[-20.0, 20.0], [20.0, -20.0]])
    assert pcl_loss(logits, targets).item() == pytest.approx(math.log(2), abs=1e-4)


def test_no_roi_no_seed_and_sure_mistakes() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert pcl_loss(torch.zeros(0, 3), Targets(none, torch.zeros(0), none)).item() == 0.0
    untaught = assign_rois(IOU, pcl_seeds(torch.rand(4, 2), none, IOU))
    assert pcl_loss(torch.randn(4, 3), untaught).item() == 0.0
    wrong = torch.tensor([[0.0, 1000.0, 0.0]], requires_grad=True)
    loss = pcl_loss(wrong, Targets(torch.tensor([2]), torch.ones(1), torch.tensor([0])))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=1e-5)
    assert wrong.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_learned_from_in_float32(dtype: torch.dtype) -> None:
    targets = Targets(torch.tensor([1, 1, 0]), torch.tensor([0.5, 0.5, 0.25]), torch.tensor([0, 0, 2]))
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    loss = pcl_loss(logits, targets)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(loop_loss(logits.float(), targets), rel=1e-5)
    none = torch.zeros(0, dtype=torch.int64)
    assert pcl_loss(logits[:0], Targets(none, torch.zeros(0), none)).dtype == torch.float32


def test_the_loss_does_not_depend_on_the_order_of_the_rois() -> None:
    scores, iou = scene(60, 4, 9)
    targets = assign_rois(iou, pcl_seeds(scores, torch.tensor([0, 2, 3]), iou))
    logits = torch.randn(60, 5, generator=torch.Generator().manual_seed(9))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(10))
    place = order.argsort()
    shuffled = Targets(targets.target[order], targets.weight[order], place[targets.seed[order]])
    assert pcl_loss(logits[order], shuffled).item() == pytest.approx(pcl_loss(logits, targets).item(), rel=1e-6)


def test_all_rois_as_nodes_give_the_centres_of_the_top_ranking_ones() -> None:
    """A GPU, which does not wait to learn who is top-ranking, works on all RoIs and pads the seeds."""
    scores, iou = scene(60, 3, 11)
    rows = scores.T
    joined = (iou > 0.4) | torch.eye(60, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # counts must stay whole
        node, weight = graph_centres(rows, top_ranking(rows), joined, 7)
    found = [(roi, label, one) for label in range(3) for roi, one in zip(node[label], weight[label], strict=True)]
    listed_seeds = listed(pcl_seeds(scores, torch.arange(3), iou, max_centres=7))
    assert [(roi.item(), label, one.item()) for roi, label, one in found if one > 0] == listed_seeds
    assert (weight == 0).any()


def test_a_crowded_neighbourhood_beats_a_higher_score_elsewhere() -> None:
    boxes = torch.cat([BOXES[3:], BOXES[:3], torch.tensor([[80.0, 80, 90, 90]])])  # the lonely one first, and best
    scores = torch.tensor([[0.99], [0.9], [0.91], [0.92], [0.1]])
    seeds = pcl_seeds(scores, torch.tensor([0]), pairwise_iou(boxes, boxes))
    assert seeds.roi.tolist() == [2, 0]
    assert seeds.weight.tolist() == pytest.approx([0.92, 0.99])
    assert assign_rois(pairwise_iou(boxes, boxes), seeds).seed[:4].tolist() == [0, 2, 2, 2]


def test_more_joined_than_16_bits_can_count() -> None:
    joined = torch.eye(600, dtype=torch.bool)
    joined[0, 2:257] = joined[2:257, 0] = True  # 256 with itself
    joined[1, 300:556] = joined[300:556, 1] = True  # 257
    scores = torch.full((1, 600), 0.5)
    scores[0, 0] = 0.9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        node, weight = graph_centres(scores, torch.ones(1, 600, dtype=torch.bool), joined, 2)
    assert node.tolist() == [[1, 0]] and weight[0].tolist() == pytest.approx([0.5, 0.9])


@pytest.mark.parametrize("score", [0.1, 0.7, 0.9])
def test_equal_scores_are_all_top_ranking_however_their_mean_is_rounded(score: float) -> None:
    sizes = [num for num in range(1, 60) if torch.full((num,), score).sum() / num > torch.tensor(score)]
    assert sizes  # there the mean of equal numbers is above them
    for num in sizes:
        assert top_ranking(torch.full((1, num), score)).all()
