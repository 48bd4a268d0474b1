"""Launchers on the command line: what is refused, and what starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.commands import refused
from tests.helpers import ROOT, toy_run
from weaksam import terminal
from weaksam.cli.launching import command_words
from weaksam.config import UserError
from weaksam.engine.distributed import require_gpus


def test_the_words_that_start_the_command_again():
    options = {"images": "a b", "tags": None, "seed": 0, "until": "clues"}
    words = ["run", "c.yaml", "x=1", "--images", "a b", "--seed", "0", "--until", "clues"]
    assert command_words("run", ["c.yaml", "x=1"], **options) == words
    assert command_words("pseudo-gt", None, json=False) == ["pseudo-gt"]
    with terminal.quiet():
        assert command_words("wsod", ["x=1"], json=True) == ["wsod", "x=1", "--json", "--quiet"]


@pytest.mark.parametrize("command", [("run",), ("proposals",), ("wsod",), ("clues", "run"), ("pseudo-gt", "run")])
def test_a_launcher_that_there_is_not_is_named(command, tmp_path):
    options = ("data.train.images=x", f"out={tmp_path / 'o'}")
    assert "wanted a launcher (local, torchrun, slurm, ray), found 'mpi'" in refused(
        *command, *options, "--launcher", "mpi"
    )
    assert "wanted --launcher ray with --address" in refused(*command, *options, "--address", "auto")
    assert "wanted a number of tasks for --launcher slurm" in refused(*command, *options, "--launcher", "slurm")
    assert not (tmp_path / "o").exists()


def test_more_workers_than_photos_are_refused(tmp_path):
    options = [*toy_run(tmp_path), f"out={tmp_path / 'o'}", "--until", "proposals"]
    assert "wanted at most as many workers as training photos, found 6 for 5: start fewer" in refused(
        "run", *options, "--workers", "6"
    )
    assert "as Ray actors" not in refused("run", *options, "--workers", "6", "--launcher", "local")
    sentence = refused("run", *options, "--workers", "6", "--launcher", "ray", "--address", "127.0.0.1:1")
    assert "wanted at most as many Ray actors as training photos, found 6 for 5" in sentence


def test_a_launcher_inside_another_is_refused(tmp_path, monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "a"), ("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    sentence = refused("run", "data.train.images=x", f"out={tmp_path}", "--launcher", "ray")
    assert "wanted one launcher, found --launcher ray in a process that torchrun started" in sentence


def test_processes_are_as_many_as_gpus(monkeypatch):
    assert require_gpus("cpu", 5) == 5
    with pytest.raises(UserError, match="wanted a number of processes, found no GPU"):
        require_gpus("cpu", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert (require_gpus("auto", None), require_gpus("cuda", 3), require_gpus("cpu", 9)) == (4, 3, 9)
    with pytest.raises(UserError, match=r"as many processes as GPUs of this machine, found 5 for 4"):
        require_gpus("auto", 5)


@pytest.mark.slow
def test_torchrun_by_the_command(tmp_path):
    """Two ranks make the proposals; one of them reports."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "weaksam", "run", *toy_run(tmp_path), f"out={tmp_path / 'o'}"]
    options = ["--until", "proposals", "--launcher", "torchrun", "--workers", "2"]
    ended = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("report: ") == 1 and not (tmp_path / "o/.ranks").exists()
    sentence = subprocess.run(
        [*command, "--launcher", "torchrun", "--workers", "6"], env=environment, capture_output=True, text=True
    ).stderr
    assert "wanted at most as many processes as training photos, found 6 for 5" in sentence


def test_only_torchrun_and_slurm_share_an_adaptation(tmp_path):
    wanted = "wanted --launcher torchrun or slurm for several processes"
    for options in (("--launcher", "ray"), ("--workers", "2")):
        assert wanted in refused("adapt-sam", f"out={tmp_path / 'o'}", *options)
    assert "found 'mpi'" in refused("adapt-sam", f"out={tmp_path / 'o'}", "--launcher", "mpi")
    assert not (tmp_path / "o").exists()
