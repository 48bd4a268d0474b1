"""Draw the random numbers of a training step photo by photo, whichever photos a process computes together.

What is drawn for a photo follows from its own generator, so that a batch that several processes share has the same
draws as in one. Without generators the draws come from torch's global random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

_seeds: tuple[int, ...] | None = None
_generators: dict[torch.device, list[Generator]] = {}


@contextmanager
def draws_of_photos(seeds: Sequence[int]) -> Iterator[None]:
    """Inside, the draws for the photos of a batch follow from these seeds, one for each photo; none: global numbers."""
    global _seeds, _generators
    before = _seeds, _generators
    _seeds, _generators = tuple(seeds) or None, {}
    try:
        yield
    finally:
        _seeds, _generators = before


def photo_generators(num_photos: int, device: torch.device) -> Sequence[Generator | None]:
    """The generator of each of ``num_photos`` photos on ``device``; None: torch's global one.

    Calls inside one `draws_of_photos` give the same generators, which go on where they were.
    """
    if _seeds is None:
        return [None] * num_photos
    assert len(_seeds) == num_photos, f"wanted draws of {len(_seeds)} photos, found {num_photos}"
    if device not in _generators:
        _generators[device] = [Generator(device).manual_seed(seed) for seed in _seeds]
    return _generators[device]


def photo_rand(shape: Sequence[int], device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1) of ``shape`` (photos, ...), each photo's from its own generator."""
    generators = photo_generators(shape[0], device)
    if not generators or generators[0] is None:
        return torch.rand(tuple(shape), device=device)
    return torch.stack([torch.rand(tuple(shape[1:]), device=device, generator=g) for g in generators])


def photo_randint(high: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers from 0 to ``high`` - 1 of ``shape`` (photos, ...), each photo's from its own generator."""
    generators = photo_generators(shape[0], device)
    if not generators or generators[0] is None:
        return torch.randint(high, tuple(shape), device=device)
    return torch.stack([torch.randint(high, tuple(shape[1:]), device=device, generator=g) for g in generators])


def photo_rows(like: Tensor, counts: Sequence[int]) -> Tensor:
    """Uniform numbers in [0, 1) of the shape of ``like`` (R, ...), each photo's rows from its own generator.

    ``counts`` of the rows are of one photo after another.
    """
    generators = photo_generators(len(counts), like.device)
    if not generators or generators[0] is None:
        return torch.rand_like(like)
    shapes = [(count, *like.shape[1:]) for count in counts]
    drawn = zip(shapes, generators, strict=True)
    return torch.cat([torch.rand(s, device=like.device, dtype=like.dtype, generator=g) for s, g in drawn])


def photo_dropout(rows: Tensor, share: float, counts: Sequence[int]) -> Tensor:
    """Dropout of this ``share`` on ``rows`` (R, ...), ``counts`` of one photo after another (`photo_rows`)."""
    generators = photo_generators(len(counts), rows.device)
    if not generators or generators[0] is None:
        return F.dropout(rows, share)
    return rows * (photo_rows(rows.detach(), counts) >= share) / (1 - share)
