"""Seed refinement branches with the centres of clusters of overlapping regions of every tagged class (PCL)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings
from weaksam.models.wsod.targets import Seeds, without_padding
from weaksam.stages.wsod.seeds.oicr import oicr_top_seeds
from weaksam.structures.devices import reading_is_free

Centres = Literal["graph", "highest"]

_NUM_LEVELS = 3
_KMEANS_ROUNDS = 20


class PclSettings(Settings):
    """The rule ``pcl``: centres of clusters, each cluster learnt as one bag (PCL, Tang et al., TPAMI 2018)."""

    rule: Literal["pcl"] = "pcl"
    centres: Centres = Field(
        "graph",
        description="cluster centres: those joined to most of the top-ranking regions (graph), or the best region of "
        "the class (highest)",
    )


def pcl_seeds(
    scores: Tensor,
    present: Tensor,
    pairwise_iou: Tensor,
    *,
    centres: Centres = "graph",
    graph_iou: float = 0.4,
    max_centres: int = 5,
) -> Seeds:
    """Cluster centres of every present class, class by class (PCL, Tang et al., TPAMI 2018).

    ``scores`` (R, C) >= 0, ``present`` (T,) labels, ``pairwise_iou`` (R, R) of the photo's RoIs. ``highest``: the best
    RoI of the class. ``graph``: k-means sorts the scores of the class into three levels; the RoIs of the highest are
    joined where their IoU exceeds ``graph_iou``; the one joined to most becomes a centre, weighted with the highest
    score among itself and those it is joined to, which all leave the graph; and so on, ``max_centres`` times at most.

    `assign_rois` then makes the clusters: RoIs with an IoU of 0.5 or more with their nearest centre, the others
    background. Ours: k-means starts from the lowest score, the highest and the middle, for 20 rounds; of RoIs joined
    to equally many the higher score goes first, then the lower RoI; RoIs that score 0 are no centre. No RoI or no
    tag: no seed. On the CPU there is no padding (label -1), elsewhere there may be.
    """
    if len(scores) == 0 or len(present) == 0 or centres == "highest":
        return oicr_top_seeds(scores, present)
    of_present = scores[:, present].T  # (T, R)
    top = top_ranking(of_present)
    members = _anywhere(top)
    joined = pairwise_iou[members[:, None], members] > graph_iou
    joined.fill_diagonal_(True)  # a box without area does not overlap itself
    node, weight = graph_centres(of_present[:, members], top[:, members], joined, max_centres)
    label = torch.where(weight > 0, present[:, None], -1)
    return without_padding(Seeds(members[node].flatten(), label.flatten(), weight.flatten()))


def top_ranking(scores: Tensor) -> Tensor:
    """Which of ``scores`` (T, R), R >= 1, are above 0 and in the highest of three levels of their row, by k-means.

    The best of a row always is, if it is above 0; so are all of them where all are equal.
    """
    lowest, highest = scores.amin(dim=1, keepdim=True), scores.amax(dim=1, keepdim=True)
    share = torch.arange(_NUM_LEVELS, device=scores.device) / (_NUM_LEVELS - 1)
    centre = lowest + (highest - lowest) * share.to(scores.dtype)  # (T, 3), ascending, as they stay
    numbers = torch.arange(_NUM_LEVELS, device=scores.device)
    for _ in range(_KMEANS_ROUNDS):
        members = _level(scores, centre)[..., None] == numbers  # (T, R, 3)
        num = members.sum(dim=1)
        mean = (members * scores[..., None]).sum(dim=1) / num.clamp(min=1)
        centre = torch.where(num > 0, mean, centre).minimum(highest)  # rounding must not lift a mean above the best
    return (_level(scores, centre) == _NUM_LEVELS - 1) & (scores > 0)


def _level(scores: Tensor, centre: Tensor) -> Tensor:
    """Number ``(T, R)`` of the nearest of the ascending centres ``(T, k)``; of two equally near the upper."""
    middle = (centre[:, 1:] + centre[:, :-1]) / 2
    return (scores[..., None] >= middle[:, None]).sum(dim=2)


def graph_centres(scores: Tensor, alive: Tensor, joined: Tensor, max_centres: int) -> tuple[Tensor, Tensor]:
    """Centre and weight ``(T, max_centres)`` each, of T graphs over the same N RoIs; weight 0 where none is left.

    ``scores`` (T, N), ``alive`` (T, N) says who is in the graph of each class, ``joined`` (N, N) symmetric, each with
    itself. N = 0: no centre, ``(T, 0)``.
    """
    if scores.shape[1] == 0:
        return torch.zeros_like(scores, dtype=torch.int64), scores
    edges = joined.double()  # counts stay whole under autocast, which leaves float64 alone
    nodes, weights = [], []
    for _ in range(max_centres):
        degree = (alive.double() @ edges).masked_fill(~alive, 0.0)  # (T, N)
        most = degree == degree.amax(dim=1, keepdim=True)
        node = scores.masked_fill(~(most & alive), -1.0).argmax(dim=1)
        neighbours = alive & joined[node]
        nodes.append(node)
        weights.append(scores.masked_fill(~neighbours, 0.0).amax(dim=1))
        alive = alive & ~joined[node]
    return torch.stack(nodes, dim=1), torch.stack(weights, dim=1)


def _anywhere(top: Tensor) -> Tensor:
    """RoIs that are in any row of ``top`` (T, R); all R off the CPU, where to find out would wait."""
    if not reading_is_free(top.device):
        return torch.arange(top.shape[1], device=top.device)
    return top.any(dim=0).nonzero()[:, 0]
