"""What an actor does with a part's number, here without Ray: the bytes of the run itself, and what it refuses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import toy_run
from weaksam.config import UserError, load_settings
from weaksam.engine.distributed import HELPER
from weaksam.engine.rendezvous import Member, check_members
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.training_state import load_trained
from weaksam.pipeline import running
from weaksam.pipeline.ray import worker
from weaksam.pipeline.ray.settings import ActorOrder
from weaksam.pipeline.ray.worker import PartWorker, fingerprints_here
from weaksam.pipeline.settings import RunSettings, without_tags


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ActorOrder:
    """For an actor of a run that makes proposals of five photos in ``tmp_path / 'out'``."""
    monkeypatch.setenv(HELPER, "")  # the worker sets it: put back afterwards
    monkeypatch.delenv(HELPER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "SEE_SECONDS", 0.0)
    monkeypatch.setattr(worker, "TOKEN_SECONDS", 0.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/token").write_text("nonce")
    settings = json.dumps(settings_in(tmp_path, "out").model_dump(mode="json"))
    return ActorOrder(1, 1, settings, str(tmp_path), "out/token", "nonce")


def settings_in(folder: Path, out: str) -> RunSettings:
    return without_tags(load_settings(RunSettings, None, [*toy_run(folder / "scenes"), f"out={out}"]))


def test_a_part_has_the_bytes_of_the_run_and_nothing_else_is_written(tmp_path, order):
    running.run(settings_in(tmp_path, "alone"), until="proposals")
    (wanted,) = (tmp_path / "alone/proposals/store").glob("train-*/part-*.parquet")
    actor = PartWorker(order)
    member, problem = actor.report()
    assert (member.rank, member.pid, problem) == (1, os.getpid(), "")
    check_members([Member.of_this_process(0, fingerprints_here(settings_in(tmp_path, "alone"))), member])
    folder = Path("out/proposals/store") / wanted.parent.name
    assert actor.compute("proposals", [], str(folder), 0) == ""
    assert (folder / wanted.name).read_bytes() == wanted.read_bytes()
    written = {path.name for path in Path("out").rglob("*") if path.is_file()}
    beside = {path.name for path in wanted.parent.iterdir() if path.name != "manifest.json"}
    assert written == {"token", *beside}  # no log, no record
    (folder / "manifest.json").write_bytes((wanted.parent / "manifest.json").read_bytes())
    (folder / wanted.name).unlink()
    assert PartWorker(order).compute("proposals", [], str(folder), 0) == ""  # finished meanwhile: nothing to do
    assert not (folder / wanted.name).exists()


def test_an_earlier_store_that_is_not_seen_is_named(order):
    sentence = PartWorker(order).compute("wsod", ["proposals"], "out/wsod/store/x", 0)
    assert "wanted the finished store out/proposals/store/train-" in sentence
    assert sentence.endswith("put out=DIR on a disk that all machines share")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"nonce": "another"}, "wanted the output folder out of the first process on"),
        (
            {"token": "elsewhere/token"},
            "found another one or none there: put out=DIR on a disk that all machines",
        ),
        ({"folder": "/not/there"}, "wanted the run's working directory /not/there on"),
    ],
)
def test_another_disk_is_noticed_before_any_work(order, changes, sentence):
    _, problem = PartWorker(replace(order, **changes)).report()
    assert sentence in problem


def test_other_settings_are_refused_by_their_fingerprint(tmp_path, order):
    member, _ = PartWorker(order).report()
    other = settings_in(tmp_path, "out").model_copy(update={"seed": 7})
    with pytest.raises(UserError, match=r"wanted the same settings in all processes, found others in process 1 \(pid"):
        check_members([Member.of_this_process(0, fingerprints_here(other)), member])


def test_a_helper_never_trains(tmp_path, monkeypatch):
    job = TrainingJob(tmp_path, "f", "wsod", 0, num_epochs=1)
    assert load_trained(None, job) is False
    monkeypatch.setenv(HELPER, "2")
    with pytest.raises(UserError, match=r"wanted the weights of wsod in .*, which the first process trained"):
        load_trained(None, job)
