"""Time the target assignment of one photo: seeds and RoI labels of every branch, vectorised against plain loops.

    OMP_NUM_THREADS=1 python benchmarks/wsod_step.py

All ways get the same proposals and scores in the same run and must give the same targets before any is timed. Three
loops, all of which begin anew in every branch, take the tags with ``unique`` and go class by class:

`released`  MIST as its released code goes (docs/method.md, MIST): candidate by candidate, an IoU call with the
            better candidates and a number asked for on the host. Labels by one IoU call and one maximum.
`table`     The same, but the IoU of a class's candidates comes from one call: a milder reading of that step.
`element`   As `table`, and a Python loop over every RoI also picks OICR's seeds and, seed by seed, the labels.

`released` and `table` differ for MIST alone: nothing says that the released OICR loops over RoIs. The vectorised way is
timed with the photo's IoU and its bits, which boxes that do not move need once, and again with both computed on the
spot. CPU seconds; on ``--device cuda`` milliseconds between two events, and waiting for the device is an error in the
vectorised way. Prints markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from weaksam.models.wsod.targets import Seeds, Targets, assign_rois
from weaksam.stages.wsod.examples import present_labels
from weaksam.stages.wsod.seeds.mist import mist_candidates, mist_seeds
from weaksam.stages.wsod.seeds.oicr import oicr_seeds, oicr_top_seeds
from weaksam.stages.wsod.seeds.overlaps import Compare, Overlaps
from weaksam.structures.boxes import nms, pairwise_iou

RULES = ("mist", "mist_kept", "oicr", "oicr_top")
Loop = Literal["released", "table", "element"]
LOOPS: tuple[Loop, ...] = ("released", "table", "element")


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


def fast(rule: str, sources: list[Tensor], present: Tensor, overlaps: Overlaps) -> list[Targets]:
    """The targets of every branch."""
    if rule.startswith("mist"):
        compare: Compare = "kept" if rule == "mist_kept" else "ranked"
        seeds = mist_seeds(sources, present, overlaps, compare=compare)
    elif rule == "oicr":
        seeds = [oicr_seeds(scores, present, overlaps.iou) for scores in sources]
    else:
        seeds = [oicr_top_seeds(scores, present) for scores in sources]
    return [assign_rois(overlaps.iou, of_branch) for of_branch in seeds]


def loop_targets(loop: Loop, rule: str, sources: list[Tensor], tags: Tensor, boxes: Tensor) -> list[Targets]:
    """The targets of every branch, each begun anew."""
    label = labels_by_element if loop == "element" else labels_by_call
    return [label(seeds_by_loop(loop, rule, scores, tags, boxes), boxes) for scores in sources]


def seeds_by_loop(loop: Loop, rule: str, scores: Tensor, tags: Tensor, boxes: Tensor) -> Seeds:
    """Seeds class by class."""
    rois, labels, weights = [], [], []
    labels_here = (tags * torch.arange(1, len(tags) + 1, device=tags.device)).unique()
    for label in [int(one) - 1 for one in labels_here if one > 0]:
        column = scores[:, label]
        if rule == "oicr_top":
            chosen = column.argmax()[None]
        elif rule == "oicr":
            chosen = (oicr_by_element if loop == "element" else oicr_by_call)(column)
        else:
            chosen = mist_by_candidate(loop, rule, column, boxes)
        rois.append(chosen)
        labels.append(torch.full_like(chosen, label))
        weights.append(column[chosen])
    seeds = Seeds(torch.cat(rois), torch.cat(labels), torch.cat(weights))
    if rule != "oicr":
        return seeds
    keep = nms(boxes[seeds.roi], seeds.weight, 0.5)
    return Seeds(*(column[keep] for column in seeds))


def mist_by_candidate(loop: Loop, rule: str, column: Tensor, boxes: Tensor) -> Tensor:
    """A class's seeds, candidate by candidate."""
    ranked = column.sort(descending=True, stable=True).indices[: mist_candidates(len(column), 0.15)]
    candidates, kept = boxes[ranked], [0]
    table = None if loop == "released" else pairwise_iou(candidates, candidates)
    for index in range(1, len(ranked)):
        others = kept if rule == "mist_kept" else slice(index)
        iou = (
            pairwise_iou(candidates[index : index + 1], candidates[others])[0]
            if table is None
            else table[index, others]
        )
        if iou.max().item() < 0.2:
            kept.append(index)
    return ranked[kept]


def oicr_by_call(column: Tensor) -> Tensor:
    """A class's candidates by one comparison."""
    return (column >= 0.9 * column.max()).nonzero()[:, 0]


def oicr_by_element(column: Tensor) -> Tensor:
    """A class's candidates, RoI by RoI."""
    best = column.max()
    return torch.tensor([roi for roi in range(len(column)) if column[roi] >= 0.9 * best], device=column.device)


def labels_by_call(seeds: Seeds, boxes: Tensor) -> Targets:
    """Labels from the IoU of all RoIs and seeds."""
    overlap, best = pairwise_iou(boxes, boxes[seeds.roi]).max(dim=1)
    return Targets(torch.where(overlap >= 0.5, seeds.label[best] + 1, 0), seeds.weight[best], seeds.roi[best])


def labels_by_element(seeds: Seeds, boxes: Tensor) -> Targets:
    """Labels RoI by RoI and seed by seed."""
    rows = list(zip(*(column.tolist() for column in seeds), strict=True))
    target, weight, owner = [], [], []
    for overlap in pairwise_iou(boxes, boxes[seeds.roi]).tolist():
        best = 0
        for index in range(1, len(rows)):
            if overlap[index] > overlap[best]:
                best = index
        roi, label, score = rows[best]
        target.append(label + 1 if overlap[best] >= 0.5 else 0)
        weight.append(score)
        owner.append(roi)
    return Targets(*(torch.tensor(column, device=boxes.device) for column in (target, weight, owner)))


@contextmanager
def never_waiting(device: torch.device) -> Iterator[None]:
    """On CUDA, make it an error to wait for the device."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def milliseconds(action: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median milliseconds of ``action``: of CPU time, or on CUDA between two events."""
    return median(one_event_time(action) if device.type == "cuda" else one_cpu_time(action) for _ in range(repeats))


def one_cpu_time(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return 1000 * (time.process_time() - start)


def one_event_time(action: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    action()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def row(rule: str, num_tags: int, options: argparse.Namespace) -> str:
    """One line of the table, after all ways gave the same targets."""
    device = torch.device(options.device)
    boxes, sources, tags = scene(options.proposals, options.classes, options.branches, num_tags, seed=0)
    present = present_labels(tags).to(device)
    boxes, sources, tags = boxes.to(device), [scores.to(device) for scores in sources], tags.to(device)
    overlaps = Overlaps(pairwise_iou(boxes, boxes))

    def quick() -> list[Targets]:
        with never_waiting(device):
            return fast(rule, sources, present, overlaps)

    def whole() -> list[Targets]:
        return fast(rule, sources, present, Overlaps(pairwise_iou(boxes, boxes)))

    wanted, repeats = quick(), max(3, options.repeats // 3)
    for loop in LOOPS:
        for one, other in zip(wanted, loop_targets(loop, rule, sources, tags, boxes), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), f"{rule}: {loop}"
    took = milliseconds(quick, options.repeats, device)
    cells = [f"{took:.2f}", f"{milliseconds(whole, options.repeats, device):.1f}"]
    for loop in LOOPS:
        slow = milliseconds(lambda: loop_targets(loop, rule, sources, tags, boxes), repeats, device)  # noqa: B023
        cells += [f"{slow:.0f}" if slow >= 10 else f"{slow:.1f}", f"{slow / took:.0f}"]
    return "| " + " | ".join([rule, str(num_tags), *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--branches", type=int, default=3)
    parser.add_argument("--tags", type=int, nargs="+", default=[3, 20], help="tags of the photo")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loops = " | ".join(f"{loop} loop | times" for loop in LOOPS)
    print(f"| seeds | tags | ms, vectorised | with the IoU | {loops} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for num_tags in options.tags:
        for rule in options.rules:
            print(row(rule, num_tags, options), flush=True)


if __name__ == "__main__":
    main()
