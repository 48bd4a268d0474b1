"""Masks as runs: counted and painted as a loop over drawn masks does, on windows that cross both edges too."""

import numpy as np
import pytest
import torch
from torch import Tensor

from weaksam.structures import mask_runs
from weaksam.structures.mask_runs import MaskRuns, by_column, class_votes, first_covering, from_columns
from weaksam.structures.masks import rle_from_mask

SIZE = (7, 12)


def random_masks(num: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy(rng.random((num, *size)) < rng.random((num, 1, 1)))
    if num > 2:
        masks[1], masks[2] = False, True
    return masks


def runs_of(masks: Tensor) -> MaskRuns:
    return MaskRuns.of_rles([rle_from_mask(mask) for mask in masks], (masks.shape[1], masks.shape[2]))


def drawn(runs: MaskRuns) -> Tensor:
    flat = torch.zeros(runs.num, runs.size[0] * runs.size[1], dtype=torch.int64)
    for start, end, row in zip(runs.starts.tolist(), runs.ends.tolist(), runs.rows.tolist(), strict=True):
        flat[row, start:end] += 1
    return torch.stack([from_columns(mask, runs.size) for mask in flat])


def test_runs_are_the_masks() -> None:
    masks = random_masks(9)
    runs = runs_of(masks)
    assert torch.equal(drawn(runs), masks.long())
    assert torch.equal(runs.areas, masks.sum(dim=(1, 2)))
    assert runs_of(torch.zeros(0, *SIZE, dtype=torch.bool)).areas.shape == (0,)


def test_small_masks_come_first_and_the_later_of_equals() -> None:
    masks = torch.zeros(4, 2, 3, dtype=torch.bool)
    masks[0, 0], masks[1, 0, 0], masks[2, 1], masks[3, :, 0] = True, True, True, True  # areas 3, 1, 3, 2
    assert runs_of(masks).smallest_first.tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize("offset", [(0, 0), (2, 9), (5, 11), (0, 4)])
@pytest.mark.parametrize("window", [(4, 5), (7, 12), (7, 5)])
def test_windows_lie_on_the_panorama(offset: tuple[int, int], window: tuple[int, int]) -> None:
    masks = random_masks(5, window, seed=1)
    runs = MaskRuns.of_window([rle_from_mask(mask) for mask in masks], offset, window, SIZE)
    wanted = torch.zeros(5, *SIZE, dtype=torch.int64)
    for mask, y, x in masks.nonzero().tolist():
        wanted[mask, (offset[0] + y) % SIZE[0], (offset[1] + x) % SIZE[1]] = 1
    assert torch.equal(drawn(runs), wanted)


def test_parts_come_one_after_the_other() -> None:
    masks = random_masks(7)
    parts = [runs_of(masks[:3]), runs_of(masks[3:3]), runs_of(masks[3:])]
    assert torch.equal(drawn(MaskRuns.cat(parts, SIZE)), masks.long())
    assert MaskRuns.cat([], SIZE).num == 0


def test_columns_there_and_back() -> None:
    pixels = torch.arange(6).reshape(2, 3)
    assert by_column(pixels).tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(from_columns(by_column(pixels), (2, 3)), pixels)


def test_votes_are_those_of_a_loop() -> None:
    masks = random_masks(9)
    classes, weights = torch.randint(-1, 4, SIZE), torch.randint(0, 2**20, SIZE, dtype=torch.int32)
    votes = class_votes(runs_of(masks), by_column(classes), by_column(weights), 4)
    assert votes.dtype == torch.int64
    for mask, of_mask in zip(masks, votes, strict=True):
        assert of_mask.tolist() == [int(weights[mask & (classes == number)].sum()) for number in range(4)]


def test_votes_are_the_same_with_few_sums_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, generator = runs_of(random_masks(9, seed=4)), torch.Generator().manual_seed(4)
    classes = torch.randint(-1, 6, (SIZE[0] * SIZE[1],), generator=generator)  # -1 and 5 have no vote
    weights = torch.randint(0, 100, classes.shape, generator=generator, dtype=torch.int32)
    wanted = class_votes(runs, classes, weights, 5)
    assert int(wanted.sum()) == sum(
        int(weights[start:end][(classes[start:end] >= 0) & (classes[start:end] < 5)].sum())
        for start, end in zip(runs.starts.tolist(), runs.ends.tolist(), strict=True)
    )
    for most in (1, 200):  # one class at once; two or so
        monkeypatch.setattr(mask_runs, "_SUMS", most)
        assert torch.equal(class_votes(runs, classes, weights, 5), wanted)


def test_the_first_in_order_covers() -> None:
    masks = random_masks(150, seed=3)  # three words of bits
    runs, order = runs_of(masks), torch.randperm(150)
    writes, open_pixels = torch.randint(0, 3, (150,)), torch.rand(SIZE) < 0.5
    wanted = torch.full(SIZE, -1)
    for row in order.flip(0).tolist():
        inside = masks[row] if writes[row] == 2 else masks[row] & open_pixels & (writes[row] == 1)
        wanted[inside] = row
    covering = first_covering(runs, order, writes, by_column(open_pixels))
    assert torch.equal(from_columns(covering, SIZE), wanted)
    nothing = runs_of(masks[:0])
    assert first_covering(nothing, order[:0], writes[:0]).eq(-1).all()


def test_sums_may_be_larger_than_a_run_may_weigh() -> None:
    weights = torch.full((16,), 2**29, dtype=torch.int32)  # all of them: 2^33
    runs = runs_of(torch.eye(4, dtype=torch.bool)[:, :, None].expand(4, 4, 4))  # a row each: runs of a pixel
    assert class_votes(runs, torch.zeros(16, dtype=torch.uint8), weights, 1).tolist() == [[2**31]] * 4
