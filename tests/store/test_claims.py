"""Claims: a piece of work is claimed by one at a time, a dead claimant's is taken, and no clocks are compared."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from weaksam.store.claims import Claims, Holder


class Clock:
    """An observer's own seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def claim_elsewhere(folder: Path, name: str = "a", touched: float = 0.0) -> Path:
    """A claim that a process of another machine holds, whose clock says ``touched``."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({"nonce": "n", "machine": "another", "pid": 1, "process": "7"}))
    os.utime(path, (touched, touched))
    return path


def is_free(claims: Claims, name: str = "a") -> bool:
    with claims.claim(name, wait=False) as claimed:
        return claimed


def test_a_claimed_piece_is_refused_until_its_block_ends(tmp_path):
    claims = Claims(tmp_path / "claims")
    with claims.claim("a", wait=False) as first, claims.claim("a", wait=False) as second:
        assert (first, second) == (True, False)
        assert is_free(claims, "b")
    with claims.claim("a", wait=True) as again:
        assert again
    assert list((tmp_path / "claims").iterdir()) == []
    claims.remove()
    assert list(tmp_path.iterdir()) == []
    claims.remove()  # nothing there to remove


def test_waiting_ends_with_the_claim(tmp_path):
    claims = Claims(tmp_path / "claims")
    with claims.claim("a", wait=False) as first:
        waiter = threading.Thread(target=lambda: outcomes.append(_waited(claims)))
        outcomes: list[bool] = []
        waiter.start()
        waiter.join(0.3)
        assert first and waiter.is_alive()
    waiter.join(60)
    assert outcomes == [True]


def test_waiting_ends_without_the_claim_where_all_work_is_done(tmp_path):
    claims = Claims(tmp_path / "claims")
    claim_elsewhere(tmp_path / "claims")
    waiter = threading.Thread(target=lambda: outcomes.append(_waited(claims)))
    outcomes: list[bool] = []
    waiter.start()
    claims.remove()
    waiter.join(60)
    assert len(outcomes) == 1


def _waited(claims: Claims) -> bool:
    with claims.claim("a", wait=True) as claimed:
        return claimed


@pytest.mark.parametrize("skew", [-(10**9), 0, 10**9])
def test_a_claim_of_another_machine_lives_as_long_as_its_file_changes(tmp_path, skew):
    """Whatever the other machine's clock says, even where it runs backwards."""
    clock = Clock()
    claims = Claims(tmp_path, silence=30, clock=clock)
    path = claim_elsewhere(tmp_path, touched=1.7e9 + skew)
    for beat in range(20):
        assert not is_free(claims)
        clock.now += 29
        assert not is_free(claims)
        os.utime(path, (0, 1.7e9 + skew - beat - 1))
    clock.now += 29
    assert not is_free(claims)  # the last change was seen just now
    clock.now += 29.5
    assert not is_free(claims)
    clock.now += 0.5
    assert is_free(claims)
    assert not path.exists()


def test_a_dead_claimant_of_another_machine_is_noticed_on_our_clock_alone(tmp_path):
    """All its claims together, counted from when they were first seen."""
    clock = Clock()
    claims = Claims(tmp_path, silence=30, clock=clock)
    for name in "ab":
        claim_elsewhere(tmp_path, name, touched=4e9)  # in a future that never comes
        assert not is_free(claims, name)
    clock.now = 30
    assert is_free(claims, "a") and is_free(claims, "b")
    claim_elsewhere(tmp_path, "b", touched=4e9)  # a claim of the same time that another one took: seen anew
    (tmp_path / "b").write_text(json.dumps({"nonce": "m", "machine": "another", "pid": 1, "process": "7"}))
    assert not is_free(claims, "b")


@pytest.mark.parametrize("process", [{"pid": 2**22 + 1}, {"process": "an earlier one of this number"}])
def test_a_dead_claimant_of_this_machine_is_noticed_at_once(tmp_path, process):
    clock = Clock()
    ours = json.loads(Holder.of_this_process().text())
    (tmp_path / "a").write_text(json.dumps(ours))
    assert not is_free(Claims(tmp_path, clock=clock))  # this very process lives
    (tmp_path / "a").write_text(json.dumps({**ours, **process}))
    assert is_free(Claims(tmp_path, clock=clock))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nonce": "n"}', '{"nonce": 1, "machine": "", "pid": "x"}'])
def test_a_claim_that_says_nothing_is_waited_for_as_another_machine_s(tmp_path, text):
    clock = Clock()
    claims = Claims(tmp_path, silence=30, clock=clock)
    (tmp_path / "a").write_text(text)
    assert not is_free(claims)
    clock.now = 30
    assert is_free(claims)


def test_who_lost_its_claim_leaves_the_new_one(tmp_path):
    claims = Claims(tmp_path)
    with claims.claim("a", wait=False) as claimed:
        assert claimed
        claim_elsewhere(tmp_path)  # taken by another machine, to which this process seemed dead
    assert Holder.read((tmp_path / "a").read_text()).machine == "another"
