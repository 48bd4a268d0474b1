"""Rankings read in blocks of bits, against rankings read candidate by candidate."""

import pytest
import torch
from torch import Tensor

from weaksam.stages.wsod.seeds.overlaps import Overlaps, best_ranked, kept_greedily, stand_apart
from weaksam.structures.bits import packed


def symmetric(num: int, share: float, seed: int) -> Tensor:
    """Bool ``(num, num)``, symmetric, about ``share`` of the pairs and all of the diagonal true."""
    drawn = torch.rand(num, num, generator=torch.Generator().manual_seed(seed)) < share
    return drawn.triu(1) | drawn.triu(1).mT | torch.eye(num, dtype=torch.bool)


def loop_apart(roi: list[int], near: Tensor, compare: str) -> list[bool]:
    keep: list[bool] = []
    for place, candidate in enumerate(roi):
        others = [other for other, kept in zip(roi[:place], keep, strict=True) if kept or compare == "ranked"]
        keep.append(not any(near[candidate, other] for other in others))
    return keep


def chain(num: int) -> Tensor:
    """Each of ``num`` is near the next alone."""
    link = torch.eye(num, dtype=torch.bool)
    next_one = link.roll(1, 0)
    next_one[0, -1] = False
    return link | next_one | next_one.mT


def test_overlaps_pack_each_threshold_once() -> None:
    overlaps = Overlaps(torch.tensor([[1.0, 0.2, 0.1], [0.2, 1.0, 0.5], [0.1, 0.5, 1.0]]))
    assert overlaps.near(0.2).tolist() == [[0b011], [0b111], [0b110]]
    assert overlaps.near(0.3).tolist() == [[0b001], [0b110], [0b110]]
    assert overlaps.near(0.2) is overlaps.near(0.2)


@pytest.mark.parametrize("compare", ["ranked", "kept"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize(("num", "length"), [(1, 1), (5, 3), (64, 64), (90, 8), (90, 33), (200, 200)])
def test_standing_apart_equals_a_plain_loop(compare, share: float, num: int, length: int) -> None:
    table = symmetric(num, share, seed=num + length)
    roi = torch.stack([torch.randperm(num, generator=torch.Generator().manual_seed(one))[:length] for one in range(3)])
    keep = stand_apart(roi, packed(table), compare)
    assert keep.tolist() == [loop_apart(ranking, table, compare) for ranking in roi.tolist()]


def test_a_chain_longer_than_a_block_is_followed_to_its_end() -> None:
    roi = torch.arange(200)[None]
    assert stand_apart(roi, packed(chain(200)), "kept")[0].nonzero()[:, 0].tolist() == list(range(0, 200, 2))
    assert stand_apart(roi, packed(chain(200)), "ranked")[0].nonzero()[:, 0].tolist() == [0]


def test_greedy_suppression_goes_link_by_link() -> None:
    valid = torch.ones(200, dtype=torch.bool)
    assert kept_greedily(chain(200), valid).nonzero()[:, 0].tolist() == list(range(0, 200, 2))
    valid[0] = False
    assert kept_greedily(chain(200), valid).nonzero()[:, 0].tolist() == list(range(1, 200, 2))


@pytest.mark.parametrize("num", [1, 2, 37, 90])
def test_the_best_are_those_of_a_stable_sort(num: int) -> None:
    generator = torch.Generator().manual_seed(num)
    scores = torch.stack(
        [
            torch.rand(90, generator=generator),
            (torch.rand(90, generator=generator) * 3).round(),  # equals on both sides of the cut
            torch.randn(90, generator=generator).round(),  # below 0, and both zeros
            torch.full((90,), 0.5),
            torch.rand(90, generator=generator) * 1e-42,  # below the smallest normal number
        ]
    )
    assert (scores[2].sign() == 0).any() and scores[2].signbit()[scores[2] == 0].any()
    wanted = scores.sort(dim=1, descending=True, stable=True).indices[:, :num]
    assert best_ranked(scores, num).tolist() == wanted.tolist()


def test_the_best_of_extremes() -> None:
    scores = torch.tensor([[0.0, -float("inf"), float("inf"), -0.0, 1.0, -1.0]])
    assert best_ranked(scores, 6).tolist() == [[2, 4, 0, 3, 5, 1]]
    assert best_ranked(scores.bfloat16(), 2).tolist() == [[2, 4]]
