"""Hungarian matching by hand: one copy for all, more objects than queries, costs that are not numbers."""

import torch

from weaksam.models.query.ignored import lies_in_ignored
from weaksam.models.query.matching import NO_QUERY, match_queries


def test_each_object_gets_the_query_of_the_least_total_cost():
    # Greedily the first object would take query 0 at 1, and the second pay 9: 10; matched, 2 + 3 = 5
    costs = torch.tensor([[1.0, 3.0], [2.0, 9.0], [8.0, 9.0]])
    other = torch.tensor([[5.0], [4.0], [6.0]])
    first, second = match_queries([costs, other])
    assert first.tolist() == [1, 0] and second.tolist() == [1]


def test_more_objects_than_queries_leave_the_dearest_without():
    (matched,) = match_queries([torch.tensor([[3.0, 1.0, 2.0], [9.0, 9.0, 4.0]])])
    assert matched.tolist() == [NO_QUERY, 0, 1]


def test_nothing_to_match():
    assert match_queries([]) == []
    none, no_query = match_queries([torch.zeros(4, 0), torch.zeros(0, 3)])
    assert none.shape == (0,) and no_query.tolist() == [NO_QUERY] * 3


def test_costs_that_are_no_numbers_are_matched_last():
    nan, inf = float("nan"), float("inf")
    (matched,) = match_queries([torch.tensor([[nan, 1.0], [5.0, inf]])])
    assert matched.tolist() == [1, 0]


def test_a_query_lies_in_an_ignored_region_by_more_than_half():
    inside, area = torch.tensor([3.0, 2.0, 0.0]), torch.tensor([4.0, 4.0, 0.0])
    assert lies_in_ignored(inside, area).tolist() == [True, False, False]
