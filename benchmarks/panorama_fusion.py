"""Time the fusion of masks with an assistant's classes (GoodSAM-style CTCF) against a loop over the masks.

    OMP_NUM_THREADS=1 python benchmarks/panorama_fusion.py [--height 400] [--width 2048] [--masks 200] [--rounds 3]

Draws smooth logits of 19 classes and ellipses as masks by a seed, fuses them at once and by the rule as it is told
(mask after mask, from large to small, each drawn), compares what both rewrite, and prints processor seconds of one
thread: the least of the rounds. All begin with the masks as they are stored (RLE) and take the same certainty.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.recipes.panorama.fusion import DOUBTFUL, Fusion, FusionSettings, fuse, pixel_certainty
from weaksam.structures.mask_runs import MaskRuns
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask

NUM_CLASSES = 19
_STEPS = 2**10


def drawn(size: tuple[int, int], num_masks: int, seed: int) -> tuple[Tensor, list[Rle]]:
    """Logits ``(C, H, W)`` and ellipses as RLE masks, the same for the same seed."""
    coarse = torch.randn(1, NUM_CLASSES, 25, 128, generator=torch.Generator().manual_seed(seed)) * 3
    logits = F.interpolate(coarse, size=size, mode="bilinear")[0]
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    masks = []
    for _ in range(num_masks):
        radius = size[0] * float(np.exp(rng.uniform(np.log(0.03), np.log(0.45))))
        down, across, stretch = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0.5, 2)
        inside = ((y - down) / radius) ** 2 + ((x - across) / (radius * stretch)) ** 2 < 1
        masks.append(rle_from_mask(torch.from_numpy(inside)))
    return logits, masks


def at_once(logits: Tensor, rles: Sequence[Rle], settings: FusionSettings) -> Fusion:
    """The fusion of all masks at once, from their RLE on; the pseudo map is part of it."""
    return fuse(logits, MaskRuns.of_rles(rles, (logits.shape[1], logits.shape[2])), settings)


def mask_by_mask(
    logits: Tensor, rles: Sequence[Rle], settings: FusionSettings, ensemble: Tensor | None = None
) -> Tensor:
    """The mask that rewrites each pixel, by a loop from the largest mask to the smallest.

    ``ensemble``, a copy of the logits, becomes the ensemble logits, mask after mask.
    """
    certainty = pixel_certainty(logits)
    largest = float(np.log(len(logits)))
    weights = ((1 - certainty.entropy / largest).clamp(0, 1) * _STEPS).round().long()
    own, unsure = certainty.classes.long(), certainty.confidence < settings.unsure_below
    masks = [mask_from_rle(rle) for rle in rles]
    areas = torch.stack([mask.count_nonzero() for mask in masks])
    writer = torch.full_like(own, -1)
    for row in areas.argsort(descending=True, stable=True).tolist():
        inside = masks[row]
        votes = torch.zeros(len(logits), dtype=torch.int64)
        votes.index_add_(0, own[inside], weights[inside])
        share = int(votes.max()) / max(int(votes.sum()), 1)
        if share < settings.part_share:
            continue
        rewritten = inside if share >= settings.whole_share else inside & unsure
        writer[rewritten] = row
        if ensemble is not None:
            ensemble[:, rewritten] = logits[:, rewritten]
            ensemble[int(votes.argmax()), rewritten] += settings.gamma * share
    return writer


def rule_as_told(logits: Tensor, rles: Sequence[Rle], settings: FusionSettings) -> tuple[Tensor, Tensor]:
    """Ensemble logits and pseudo map, each mask writing its pixels of the logits in turn."""
    ensemble = logits.clone()
    mask_by_mask(logits, rles, settings, ensemble)
    certainty = pixel_certainty(ensemble)
    labels = certainty.classes.long()
    labels[certainty.entropy > settings.max_entropy * float(np.log(len(logits)))] = DOUBTFUL
    return ensemble, labels


def seconds(function: Callable[[], object], rounds: int) -> float:
    """The least processor seconds of ``rounds`` calls, after one that does not count."""
    function()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=400)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--masks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = FusionSettings()
    given = (*drawn((options.height, options.width), options.masks, seed=0), settings)
    fusion, (ensemble, labels) = at_once(*given), rule_as_told(*given)
    same = torch.equal(fusion.writer, mask_by_mask(*given)) and torch.equal(fusion.labels, labels)
    difference = float((fusion.ensemble(given[0]) - ensemble).abs().max())
    fast = seconds(lambda: at_once(*given), options.rounds)
    print(f"{options.masks} masks on {options.height} x {options.width}: all at once {fast:.3f} s")
    loops = {
        "loop over masks that write the ensemble logits (the rule as it is told)": lambda: rule_as_told(*given),
        "loop over masks that write their number alone, without ensemble and pseudo map": lambda: mask_by_mask(*given),
    }
    for name, function in loops.items():
        slow = seconds(function, options.rounds)
        print(f"{name}: {slow:.3f} s, {slow / fast:.1f} x")
    print(f"the same writers and pseudo map: {same}; ensemble logits differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
