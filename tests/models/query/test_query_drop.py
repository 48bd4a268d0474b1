"""Query drop on hand-made losses: which queries leave which term, by percentage and by threshold."""

import pytest
import torch
from pydantic import ValidationError

from weaksam.models.query.query_drop import QueryDropSettings, dropped_queries

CLASS = torch.tensor([0.5, 6.0, 9.0, 5.0, 1.0, 0.1])
BOX = torch.tensor([1.0, 2.0, 0.0, 7.0, 8.0, 3.0])
MATCHED = torch.tensor([True, True, False, True, True, True])


def at_limits(limit: float, **options: object) -> QueryDropSettings:
    return QueryDropSettings(threshold="loss", class_limit=limit, box_limit=limit, **options)


@pytest.mark.parametrize(
    ("settings", "of_class", "of_box"),
    [
        # Class losses above 4 among the matched: queries 1 and 3, which leave both terms
        (at_limits(4, gate="class"), [1, 3], [1, 3]),
        (at_limits(4, gate="independent"), [1, 3], [3, 4]),
        (at_limits(4, gate="joint"), [3], [3]),
        (at_limits(4, gate="independent", drop_background=True), [1, 2, 3], [3, 4]),
        (at_limits(100, gate="class"), [], []),
        # Two fifths of the five matched ones
        (QueryDropSettings(gate="class", class_limit=0.4), [1, 3], [1, 3]),
        (QueryDropSettings(gate="class", class_limit=0.2), [1], [1]),
        (QueryDropSettings(gate="class"), [], []),
        # 0.1 to 6 moved to 0 to 1: above 0.8 lie 6 and 5
        (QueryDropSettings(gate="class", threshold="normalised", class_limit=0.8), [1, 3], [1, 3]),
    ],
)
def test_worked_example(settings: QueryDropSettings, of_class: list[int], of_box: list[int]) -> None:
    dropped = dropped_queries({"class": CLASS, "box": BOX}, MATCHED, settings)
    assert {term: rows.nonzero()[:, 0].tolist() for term, rows in dropped.items()} == {"class": of_class, "box": of_box}


def test_no_matched_query_drops_nothing() -> None:
    nowhere = torch.zeros(6, dtype=torch.bool)
    for gate in ("class", "independent", "joint"):
        dropped = dropped_queries({"class": CLASS, "box": BOX}, nowhere, QueryDropSettings(gate=gate))
        assert not any(rows.any() for rows in dropped.values())


def test_starts_at_its_step_and_refuses_a_share_above_1() -> None:
    settings = QueryDropSettings(gate="class", start_step=5)
    assert [settings.active(step, 10) for step in (4, 5)] == [False, True]
    assert not QueryDropSettings(start_step=0).active(9, 10)
    with pytest.raises(ValidationError, match="wants limits from 0 to 1"):
        QueryDropSettings(gate="class", threshold="share", class_limit=2)
