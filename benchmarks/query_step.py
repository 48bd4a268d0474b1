"""Time the parts of detectors with object queries on the CPU against transformers', in the same run.

    OMP_NUM_THREADS=1 python benchmarks/query_step.py attention

``attention``: multi-scale deformable attention alone, forward and backward, at the sizes of VOC photos (500 x 375
pixels resized to a short side of 480 and of 800), for the encoder, whose queries are all cells, and the decoder. Both
get the same random inputs and must agree before either is timed. CPU milliseconds of one thread, best and median of
repeats in turn. Prints markdown.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from weaksam.models.query.deformable_attention import deformable_attention

HEADS, DEPTH, POINTS = 8, 32, 4
STRIDES = (8, 16, 32, 64)
ATTENTION_CASES = {
    "encoder, 480 x 640": ((480, 640), None),
    "encoder, 800 x 1066": ((800, 1066), None),
    "decoder, 900 queries, 800 x 1066": ((800, 1066), 900),
    "decoder, 1100 queries, 800 x 1066": ((800, 1066), 1100),
}
"""Height and width of the photo, and the number of queries; none: every cell asks."""


def times_in_turn(actions: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """CPU milliseconds of each of ``actions``, taken in turn, so that a change of load meets all alike."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for action, of_action in zip(actions, times, strict=True):
            start = time.process_time()
            action()
            of_action.append(1000 * (time.process_time() - start))
    return times


def attention_inputs(size: tuple[int, int], num_queries: int | None) -> tuple[list[tuple[int, int]], list[Tensor]]:
    """Sizes of the levels, and values, locations around each query's place, and weights, which ask for gradients."""
    torch.manual_seed(0)
    sizes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]
    places = [torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(1) for h, w in sizes]
    reference = torch.cat(places)[None] if num_queries is None else torch.rand(1, num_queries, 2)
    values = torch.randn(1, sum(h * w for h, w in sizes), HEADS, DEPTH)
    shape = (1, reference.shape[1], HEADS, len(sizes), POINTS)
    lengths = torch.tensor([[w, h] for h, w in sizes]).float()
    locations = reference[:, :, None, None, None] + 2 * torch.randn(*shape, 2) / lengths[:, None]
    weights = torch.randn(shape).flatten(3).softmax(-1).view(shape)
    return sizes, [values.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()]


def attention_row(name: str, repeats: int) -> str:
    """One line of the table of attention."""
    sizes, tensors = attention_inputs(*ATTENTION_CASES[name])
    values, locations, weights = tensors
    theirs_module = MultiScaleDeformableAttention()
    ways: list[Callable[[], Tensor]] = [
        lambda: deformable_attention(values, sizes, locations, weights),
        lambda: theirs_module(values, None, sizes, None, locations, weights, 64),
    ]
    ours, theirs = (way() for way in ways)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    grad = torch.randn_like(ours)
    gradients = [torch.autograd.grad(sums, (values, weights), grad) for sums in (ours, theirs)]
    for of_ours, of_theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(of_ours, of_theirs, rtol=1e-3, atol=1e-3)
    forward = times_in_turn(ways, repeats)
    both = times_in_turn([lambda way=way: torch.autograd.grad(way(), tensors, grad) for way in ways], repeats)  # type: ignore[misc]
    return f"| {name} | " + " | ".join([*compared(forward), *compared(both)]) + " |"


def compared(times: Sequence[Sequence[float]]) -> list[str]:
    """Cells: best and median of ours, of theirs, and ours as a share of theirs."""
    ours, theirs = times
    return [
        f"{min(ours):.0f} / {median(ours):.0f}",
        f"{min(theirs):.0f} / {median(theirs):.0f}",
        f"{min(ours) / min(theirs):.2f} / {median(ours) / median(theirs):.2f}",
    ]


def load() -> str:
    """The machine's load in the last minute and its cores."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("attention",))
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load before: {load()}")
    print("| where | forward, ms | transformers | share | with backward, ms | transformers | share |")
    print("|---|---|---|---|---|---|---|")
    for name in ATTENTION_CASES:
        print(attention_row(name, options.repeats), flush=True)
    print(f"load after: {load()}; every cell is best / median of {options.repeats}")


if __name__ == "__main__":
    main()
