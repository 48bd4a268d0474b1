"""Time the target assignment of one photo: seeds and RoI labels of every branch, vectorised against plain loops.

    OMP_NUM_THREADS=1 python benchmarks/wsod_step.py

Both ways get the same proposals and scores in the same run, must give the same targets, and are counted in CPU
seconds. Two loop forms: `released`, shaped like the released layers (every branch takes its tags with ``unique``,
computes its IoUs anew, suppresses candidate by candidate and labels seed by seed, asking for numbers on the host), and
`element` (a Python loop over every RoI and seed). The vectorised way is timed with the photo's pairwise IoU, which
training computes once per photo and keeps, and once more with that IoU computed on the spot. Prints markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from weaksam.models.oicr import Seeds
from weaksam.models.wsod_targets import (
    Targets,
    assign_rois,
    mist_candidates,
    mist_seeds,
    oicr_seeds,
    oicr_top_seeds,
    present_labels,
)
from weaksam.structures.boxes import nms, pairwise_iou

RULES = ("mist", "mist_kept", "oicr", "oicr_top")


def scene(num: int, classes: int, branches: int, tags: int, seed: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Boxes ``(num, 4)`` around random objects as proposals crowd, scores ``(num, classes)`` by branch, and tags."""
    generator = torch.Generator().manual_seed(seed)
    centre = (torch.rand(40, 2, generator=generator) * 600)[torch.randint(40, (num,), generator=generator)]
    centre = centre + 25 * torch.randn(num, 2, generator=generator)
    side = 20 + 180 * torch.rand(num, 2, generator=generator)
    scores = [torch.randn(num, classes, generator=generator).softmax(dim=1) for _ in range(branches)]
    vector = torch.zeros(classes)
    vector[torch.randperm(classes, generator=generator)[:tags]] = 1.0
    return torch.cat([centre - side / 2, centre + side / 2], dim=1), scores, vector


def fast(rule: str, sources: list[Tensor], present: Tensor, iou: Tensor) -> list[Targets]:
    """The targets of every branch, as the stage makes them."""
    found = []
    for scores in sources:
        if rule.startswith("mist"):
            seeds = mist_seeds(scores, present, iou, compare="kept" if rule == "mist_kept" else "ranked")
        else:
            seeds = oicr_seeds(scores, present, iou) if rule == "oicr" else oicr_top_seeds(scores, present)
        found.append(assign_rois(iou, seeds))
    return found


def seeds_by_loop(rule: str, scores: Tensor, tags: Tensor, boxes: Tensor) -> Seeds:
    """Seeds class by class and candidate by candidate."""
    rois, labels, weights = [], [], []
    labels_here = (tags * torch.arange(1, len(tags) + 1)).unique()
    for label in [int(one) - 1 for one in labels_here if one > 0]:
        column = scores[:, label]
        if rule == "oicr_top":
            chosen = [int(column.argmax())]
        elif rule == "oicr":
            chosen = [roi for roi in range(len(column)) if column[roi].item() >= 0.9 * column.max().item()]
        else:
            ranked = column.sort(descending=True, stable=True).indices[: mist_candidates(len(scores), 0.15)]
            iou, kept = pairwise_iou(boxes[ranked], boxes[ranked]), [0]
            for place in range(1, len(ranked)):
                others = iou[place, kept] if rule == "mist_kept" else iou[place, :place]
                if others.max().item() < 0.2:
                    kept.append(place)
            chosen = ranked[kept].tolist()
        rois += chosen
        labels += [label] * len(chosen)
        weights += [column[roi].item() for roi in chosen]
    seeds = Seeds(torch.tensor(rois), torch.tensor(labels), torch.tensor(weights))
    if rule != "oicr":
        return seeds
    keep = nms(boxes[seeds.roi], seeds.weight, 0.5)
    return Seeds(*(column[keep] for column in seeds))


def released_loop(rule: str, sources: list[Tensor], tags: Tensor, boxes: Tensor) -> list[Targets]:
    """Every branch anew: seeds by a loop, then a loop over seeds that overwrites the RoIs each overlaps more."""
    found = []
    for scores in sources:
        seeds = seeds_by_loop(rule, scores, tags, boxes)
        num = len(boxes)
        overlap, target = torch.full((num,), -1.0), torch.zeros(num, dtype=torch.int64)
        weight, owner = torch.zeros(num), torch.zeros(num, dtype=torch.int64)
        for roi, label, score in zip(*(column.tolist() for column in seeds), strict=True):
            iou = pairwise_iou(boxes, boxes[roi : roi + 1])[:, 0]
            more = iou > overlap
            overlap[more], weight[more], owner[more] = iou[more], score, roi
            target[more] = torch.where(iou[more] >= 0.5, label + 1, 0)
        found.append(Targets(target, weight, owner))
    return found


def element_loop(rule: str, sources: list[Tensor], tags: Tensor, boxes: Tensor) -> list[Targets]:
    """Every branch anew, RoI by RoI and seed by seed."""
    found = []
    for scores in sources:
        seeds = seeds_by_loop(rule, scores, tags, boxes)
        rows = list(zip(*(column.tolist() for column in seeds), strict=True))
        overlaps = pairwise_iou(boxes, boxes[seeds.roi]).tolist()
        columns: tuple[list[int], list[float], list[int]] = ([], [], [])
        for overlap in overlaps:
            best = 0
            for place in range(1, len(rows)):
                if overlap[place] > overlap[best]:
                    best = place
            roi, label, score = rows[best]
            for column, value in zip(columns, (label + 1 if overlap[best] >= 0.5 else 0, score, roi), strict=True):
                column.append(value)
        found.append(Targets(*(torch.tensor(column) for column in columns)))
    return found


def milliseconds(action: Callable[[], object], repeats: int) -> float:
    """Median CPU milliseconds of ``action``."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        taken.append(1000 * (time.process_time() - start))
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--branches", type=int, default=3)
    parser.add_argument("--tags", type=int, nargs="+", default=[3, 20], help="tags of the photo")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| seeds | tags | ms, vectorised | with the IoU | ms, released loop | times | ms, element loop | times |")
    print("|---|---|---|---|---|---|---|---|")
    for tags in options.tags:
        boxes, sources, vector = scene(options.proposals, options.classes, options.branches, tags, seed=0)
        iou, present = pairwise_iou(boxes, boxes), present_labels(vector)
        for rule in options.rules:
            wanted = fast(rule, sources, present, iou)
            for loop in (released_loop, element_loop):
                for one, other in zip(wanted, loop(rule, sources, vector, boxes), strict=True):
                    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), f"{rule}: {loop.__name__}"
            quick = milliseconds(lambda r=rule, p=present, i=iou, s=sources: fast(r, s, p, i), options.repeats)
            whole = milliseconds(
                lambda r=rule, p=present, b=boxes, s=sources: fast(r, s, p, pairwise_iou(b, b)), options.repeats
            )
            slow = [
                milliseconds(
                    lambda f=f, r=rule, b=boxes, s=sources, v=vector: f(r, s, v, b), max(3, options.repeats // 3)
                )
                for f in (released_loop, element_loop)
            ]
            print(
                f"| {rule} | {tags} | {quick:.2f} | {whole:.1f} | {slow[0]:.0f} | {slow[0] / quick:.0f} "
                f"| {slow[1]:.0f} | {slow[1] / quick:.0f} |"
            )


if __name__ == "__main__":
    main()
