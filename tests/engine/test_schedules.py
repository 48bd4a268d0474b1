"""Learning rates rise and fall as the recipes say, step for step."""

from __future__ import annotations

import pytest

from weaksam.engine.schedules import warmup_steps


def test_a_rise_from_a_given_share_by_hand():
    """From 1/3 over four steps: 1/3 + 2/3 of 0, 1/4, 2/4, 3/4; then 1."""
    factors = [warmup_steps(step, 100, warmup=4, start_ratio=1 / 3) for step in range(6)]
    assert factors == pytest.approx([1 / 3, 1 / 2, 2 / 3, 5 / 6, 1, 1])
    assert warmup_steps(0, 100, warmup=500, start_ratio=1e-3) == 1e-3
    assert warmup_steps(0, 100, warmup=0, start_ratio=1e-3) == 1.0


def test_the_rise_without_a_share_stays_as_it_was():
    assert [warmup_steps(step, 10, warmup=2) for step in range(3)] == [1 / 3, 2 / 3, 1.0]


def test_a_rate_may_grow_at_the_milestones():
    """Concrete DropBlock of MIST (Ren et al., CVPR 2020): times 3 at 20,000 and at 26,700 of 30,000 steps."""
    shares = (20_000 / 30_000, 26_700 / 30_000)
    factors = [warmup_steps(step, 30_000, 200, shares, 3.0, 1 / 3) for step in (19_999, 20_000, 26_699, 26_700, 29_999)]
    assert factors == pytest.approx([1, 3, 3, 9, 9])


def test_a_milestone_is_met_at_its_very_step():
    """119 / 30000 * 30000 is more than 119 in floating point."""
    for total in (96_000, 125_000, 30_000):
        assert all(
            warmup_steps(step, total, milestones=(step / total,))
            < 1
            == warmup_steps(step - 1, total, 0, (step / total,))
            for step in range(1, total, 7)
        )
