"""Time RoIAlign on the CPU, forward and backward: ours (bags of embeddings) against torchvision's, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/roi_align.py

Both get the same random maps and RoIs and must agree before either is timed. CPU milliseconds of one thread, best and
median of many repeats in turn (ours, torchvision's, ours, ...), ours with everything it needs: cells, weights, and the
copy into the layout that a linear layer reads. Beside the table stands the machine's load, because a busy neighbour
slows the two differently: both read memory, but not equally much. Prints markdown.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

from weaksam.models.roi.align import roi_align

CASES = {
    "box head of Faster R-CNN": (4, 128, 32, 32, 256, 7),
    "mask head of Mask R-CNN": (4, 128, 32, 32, 64, 14),
    "WSOD on frozen features, one photo": (1, 256, 28, 28, 100, 5),
    "WSOD on VGG-16, one photo": (1, 512, 86, 115, 2000, 7),
}
"""Photos, channels, height, width, RoIs in all, cells a side."""


def scene(photos: int, channels: int, height: int, width: int, num: int) -> tuple[Tensor, Tensor]:
    """Maps that ask for a gradient, channels last, and RoIs of all sizes in cells."""
    torch.manual_seed(0)
    maps = torch.randn(photos, channels, height, width).contiguous(memory_format=torch.channels_last)
    corner = torch.rand(num, 2) * torch.tensor([width, height])
    far = (corner + 1 + torch.rand(num, 2) * width / 2).minimum(torch.tensor([width, height]))
    return maps.requires_grad_(), torch.cat([torch.arange(num)[:, None] % photos, corner, far], dim=1)


def milliseconds(actions: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """CPU times of each of ``actions``, taken in turn, so that a change of load meets all alike."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for action, of_action in zip(actions, times, strict=True):
            start = time.process_time()
            action()
            of_action.append(1000 * (time.process_time() - start))
    return times


def compared(times: Sequence[Sequence[float]]) -> list[str]:
    """Cells: best and median of ours, of torchvision's, and their ratios."""
    (our_best, our_median), (their_best, their_median) = ((min(of_one), median(of_one)) for of_one in times)
    return [
        f"{our_best:.1f} / {our_median:.1f}",
        f"{their_best:.1f} / {their_median:.1f}",
        f"{their_best / our_best:.1f} / {their_median / our_median:.1f}",
    ]


def require_same(ours: Callable[[], Tensor], torchvisions: Callable[[], Tensor], maps: Tensor, grad: Tensor) -> None:
    """AssertionError unless values and gradients agree."""
    values = ours(), torchvisions()
    gradients = [torch.autograd.grad(pooled, maps, grad)[0] for pooled in values]
    for first, second in (values, gradients):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def row(name: str, repeats: int) -> str:
    """One line of the table."""
    *shape, num, size = CASES[name]
    maps, rois = scene(*shape, num)
    grad = torch.randn(num, shape[1] * size**2)

    def ours() -> Tensor:
        return roi_align(maps, rois, scale=1.0, size=size).flatten(1)

    def torchvisions() -> Tensor:
        return torch.ops.torchvision.roi_align(maps, rois, 1.0, size, size, 2, True).flatten(1)

    require_same(ours, torchvisions, maps, grad)
    cells = [name, str(num)]
    pools = (ours, torchvisions)
    with_backward = [
        lambda pool=pool: torch.autograd.grad(pool(), maps, grad)  # type: ignore[misc]
        for pool in pools
    ]
    cells += compared(milliseconds(pools, repeats)) + compared(milliseconds(with_backward, repeats))
    return "| " + " | ".join(cells) + " |"


def load() -> str:
    """The machine's load in the last minute and its cores."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load before: {load()}")
    print("| where | RoIs | forward, ms | torchvision | times | with backward, ms | torchvision | times |")
    print("|---|---|---|---|---|---|---|---|")
    for name in CASES:
        print(row(name, options.repeats), flush=True)
    print(f"load after: {load()}; every cell is best / median of {options.repeats}")


if __name__ == "__main__":
    main()
