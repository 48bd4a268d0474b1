"""One process owns an output folder: others are refused, a dead one's place is free at once, a silent one's in time."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from tests.helpers import PROCESSES
from weaksam.config import UserError
from weaksam.store import owner as owners
from weaksam.store.owner import Owner, Ownership, process_start


def ownership(out: Path, fingerprint: str = "a", notes: list[str] | None = None) -> Ownership:
    return Ownership(out, fingerprint, "weaksam run", [].append if notes is None else notes.append)


def lost() -> None:
    raise AssertionError("nobody took the folder")


def own_until_killed(out: Path) -> None:
    mine = ownership(out)
    mine.acquire(lost)
    mine.admit_workers()
    time.sleep(600)


def race(out: Path, start: float) -> None:
    """Try to own ``out`` at ``start``, together with others; exit code 0 for the one that does, for a second."""
    time.sleep(max(0.0, start - time.time()))
    try:
        mine = ownership(out)
        mine.acquire(lost)
    except UserError:
        raise SystemExit(3) from None
    (out / f"owned-by-{os.getpid()}").touch()
    time.sleep(1.0)


def as_of_another_machine(out: Path) -> Path:
    """Let the owner of ``out`` seem to be on another machine."""
    owner = Owner.read(out)
    owner.path.write_text(dataclasses.replace(owner, machine="another").text())
    return owner.path


def test_a_folder_has_one_owner_and_is_free_after_it(tmp_path):
    first = ownership(tmp_path / "out")
    first.acquire(lost)
    with pytest.raises(UserError, match=rf"out for this run alone.*the same run.*process {os.getpid()} on .* since 20"):
        ownership(tmp_path / "out").acquire(lost)
    with pytest.raises(UserError, match=r"a run with other settings is under way.*'weaksam run'.*another out=DIR"):
        ownership(tmp_path / "out", "b").acquire(lost)
    assert not Owner.read(tmp_path / "out").ready
    first.admit_workers()
    assert Owner.read(tmp_path / "out").ready
    first.release()
    assert list((tmp_path / "out").iterdir()) == [] and Owner.read(tmp_path / "out") is None
    ownership(tmp_path / "out").release()  # what was never owned


def test_a_killed_owner_is_followed_at_once(tmp_path):
    process = PROCESSES.Process(target=own_until_killed, args=(tmp_path,))
    process.start()
    while (owner := Owner.read(tmp_path)) is None or not owner.ready:
        time.sleep(0.01)
    with pytest.raises(UserError, match=f"process {process.pid} "):
        ownership(tmp_path).acquire(lost)
    process.kill()  # and not waited for: its number is still taken, by a zombie
    while process_start(process.pid) is not None:
        time.sleep(0.001)
    notes = []
    mine = ownership(tmp_path, notes=notes)
    mine.acquire(lost)
    mine.release()
    process.join()
    assert notes == [] and list(tmp_path.iterdir()) == []


def test_of_several_processes_that_find_a_dead_owner_one_follows(tmp_path):
    (tmp_path / owners.FOLDER).mkdir()
    dead = Owner.of_this_process(tmp_path, "a", "weaksam run")
    dead.path.write_text(dataclasses.replace(dead, process="long ago").text())
    arguments = (tmp_path, time.time() + 3)
    processes = [PROCESSES.Process(target=race, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    winners = len(list(tmp_path.glob("owned-by-*")))
    assert winners >= 1
    assert sorted(process.exitcode for process in processes).count(0) == winners
    if time.time() - arguments[1] < 1.9:  # all tried within the second of the first
        assert winners == 1


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path):
    (tmp_path / owners.FOLDER).mkdir()
    earlier = Owner.of_this_process(tmp_path, "a", "weaksam run")
    earlier.path.write_text(dataclasses.replace(earlier, process="1").text())
    mine = ownership(tmp_path)
    mine.acquire(lost)
    mine.release()


def test_an_owner_on_another_machine_lives_by_its_beat(tmp_path, monkeypatch):
    monkeypatch.setattr(owners, "BEAT_SECONDS", 0.05)
    first, notes = ownership(tmp_path), []
    first.acquire(lost)
    as_of_another_machine(tmp_path)
    with pytest.raises(UserError, match="the same run is under way"):
        ownership(tmp_path, notes=notes).acquire(lost)
    assert len(notes) == 1 and "waiting up to 30 s for a sign of life" in notes[0]
    first.release()


@pytest.mark.parametrize("content", [None, "", "[1]", '{"pid": "x", "host": 3}'])
def test_a_silent_owner_on_another_machine_loses_the_folder(tmp_path, content):
    """Its clock may say anything, and its file may be damaged."""
    (tmp_path / owners.FOLDER).mkdir()
    silent = dataclasses.replace(Owner.of_this_process(tmp_path, "a", "x"), machine="another")
    silent.path.write_text(silent.text() if content is None else content)
    os.utime(silent.path, (2e9, 2e9))
    owner = Owner.read(tmp_path)
    assert owner.runs_here() is None and not owner.lives(silence=0.2)
    mine = ownership(tmp_path)
    owners._remove(owner)
    mine.acquire(lost)
    assert Owner.read(tmp_path).pid == os.getpid()
    mine.release()


def test_an_owner_that_stood_still_for_long_learns_that_it_lost_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(owners, "BEAT_SECONDS", 0.05)
    losses = []
    first = ownership(tmp_path)
    first.acquire(lambda: losses.append("lost"))
    owners._remove(first.owner)
    second = ownership(tmp_path)
    second.acquire(lost)
    while not losses:
        time.sleep(0.01)
    first.release()  # touches nothing of the second
    assert Owner.read(tmp_path).path == second.owner.path
    second.release()


def test_removing_a_dead_owner_spares_the_one_who_came_meanwhile(tmp_path):
    (tmp_path / owners.FOLDER).mkdir()
    dead = Owner.of_this_process(tmp_path, "a", "x")
    dead.path.write_text(dataclasses.replace(dead, process="1").text())
    mine = ownership(tmp_path)
    mine.acquire(lost)
    owners._remove(dead)  # by a third process that had judged it dead before
    assert Owner.read(tmp_path).path == mine.owner.path
    mine.release()


def test_what_is_written_of_an_owner_is_read_again(tmp_path):
    (tmp_path / owners.FOLDER).mkdir()
    owner = dataclasses.replace(Owner.of_this_process(tmp_path, "f", "weaksam run out=x"), ready=True)
    owner.path.write_text(owner.text())
    assert Owner.read(tmp_path) == owner
    assert set(json.loads(owner.text())) == {field.name for field in dataclasses.fields(Owner)} - {"path"}
    assert process_start(os.getpid()) == owner.process and process_start(2**22 + 1) is None
