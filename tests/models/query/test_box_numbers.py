"""The true box of every query: by hand, against a search through all ways, without boxes, with too many."""

import itertools

import torch
from torch import Tensor

from weaksam.models.query.box_numbers import matched_boxes


def test_the_least_total_cost_by_hand() -> None:
    # Giving query 0 its best box would cost 1 + 9, the other way 2 + 3
    costs = torch.tensor([[1.0, 2.0], [3.0, 9.0], [8.0, 8.0]]).expand(1, 2, 3, 2)
    assert matched_boxes(costs, (2, 0)).tolist() == [[[1, 0, -1], [-1, -1, -1]]]
    # Of the padded boxes only the first counts
    assert matched_boxes(costs, (1, 2)).tolist() == [[[0, -1, -1], [1, 0, -1]]]


def cheapest(costs: Tensor) -> float:
    """Least total cost over all ways to give each box a query of its own."""
    num_queries, num_boxes = costs.shape
    ways = itertools.permutations(range(num_queries), num_boxes)
    return min(sum(float(costs[query, box]) for box, query in enumerate(way)) for way in ways)


def test_equals_a_search_through_all_ways() -> None:
    costs = torch.randn(3, 2, 5, 3, generator=torch.Generator().manual_seed(0))
    numbers = matched_boxes(costs, (3, 2))
    for layer, photo in itertools.product(range(3), range(2)):
        count = (3, 2)[photo]
        of_photo = numbers[layer, photo]
        queries = (of_photo >= 0).nonzero()[:, 0]
        assert sorted(of_photo[queries].tolist()) == list(range(count))
        total = sum(float(costs[layer, photo, query, of_photo[query]]) for query in queries)
        assert abs(total - cheapest(costs[layer, photo, :, :count])) < 1e-5


def test_more_boxes_than_queries_leave_the_dearest_out() -> None:
    costs = torch.tensor([[5.0, 1.0, 4.0], [3.0, 2.0, 9.0]])[None, None]
    assert matched_boxes(costs, (3,)).tolist() == [[[1, 0]]]


def test_no_box() -> None:
    assert matched_boxes(torch.zeros(2, 2, 3, 0), (0, 0)).tolist() == [[[-1] * 3] * 2] * 2
