"""What torchrun and Slurm are asked for, checked by a stand-in for srun that is a real executable on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from weaksam.config import UserError
from weaksam.engine.launchers import by_slurm, by_torchrun

RECORD = """#!/usr/bin/env bash
# Stands in for Slurm's srun: records what it is asked for
printf '%s\\n' "$@" > "$RECORD"
printf '%s %s\\n' "$WEAKSAM_SLURM" "$WEAKSAM_PROCESSES" >> "$RECORD"
exit 7
"""
PROGRAM = ["-m", "weaksam", "run", "a b.yaml", "seed=1"]


def test_torchrun_divides_the_cores_where_nobody_says(monkeypatch):
    monkeypatch.setattr("weaksam.engine.launchers.processors", lambda: 10)
    start = by_torchrun(PROGRAM, 4, {"PATH": "/bin"})
    assert start.words[3:] == ("--standalone", "--nproc_per_node=4", *PROGRAM)
    assert start.environment == {"PATH": "/bin", "OMP_NUM_THREADS": "3", "WEAKSAM_PROCESSES": "4"}
    assert by_torchrun(PROGRAM, 4, {"OMP_NUM_THREADS": "1"}).environment["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("num", "partition", "environment", "options"),
    [
        (3, "gpu", {}, "--partition=gpu --ntasks=3 --ntasks-per-node=3 --gres=gpu:3 --cpus-per-task=5"),
        (16, None, {}, "--ntasks=16 --ntasks-per-node=8 --gres=gpu:8 --cpus-per-task=5"),
        (
            6,
            "a100",
            {"GPUS_PER_NODE": "2", "CPUS_PER_TASK": "12"},
            "--partition=a100 --ntasks=6 --ntasks-per-node=2 --gres=gpu:2 --cpus-per-task=12",
        ),
    ],
)
def test_srun_starts_a_task_per_gpu(num, partition, environment, options):
    environment = {"PYTHON": "py", "SRUN_ARGS": "--time=1:00 --comment='two words'", **environment}
    start = by_slurm(PROGRAM, num, partition, environment)
    extra = ("--kill-on-bad-exit=1", "--time=1:00", "--comment=two words", "py", "-u", *PROGRAM)
    assert start.words == ("srun", *options.split(), *extra)
    assert start.environment == {**environment, "WEAKSAM_SLURM": "1", "WEAKSAM_PROCESSES": str(num)}


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", ""])
def test_a_number_for_slurm_that_is_none_is_named(text):
    with pytest.raises(UserError, match=rf"GPUS_PER_NODE, found '{text}'"):
        by_slurm(PROGRAM, 2, None, {"GPUS_PER_NODE": text})


def started(*arguments: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of this Python, with ``path`` in front of PATH or, without it, nothing on PATH."""
    search = "/nowhere" if path is None else f"{path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "PATH": search, **environment}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def srun(tmp_path: Path) -> Path:
    """A folder with an srun that records."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").write_text(RECORD)
    (tmp_path / "bin/srun").chmod(0o755)
    return tmp_path / "bin"


@pytest.mark.slow
def test_the_command_and_the_script_ask_slurm_for_the_same(tmp_path, srun):
    """But for the partition, which the command leaves to SRUN_ARGS or to Slurm; srun's exit code is the command's."""
    record = tmp_path / "record"
    words = ["run", "seed=1", f"out={tmp_path / 'o'}", "--until", "proposals", "data.train.images=x"]
    ended = started("weaksam", *words, "--launcher", "slurm", "--workers", "3", path=srun, RECORD=str(record))
    assert ended.returncode == 7, ended.stderr
    by_command = record.read_text().splitlines()
    assert by_command[:2] == ["--ntasks=3", "--ntasks-per-node=3"]
    program = ["-m", "weaksam", "run", "seed=1", f"out={tmp_path / 'o'}", "data.train.images=x", "--until", "proposals"]
    assert by_command[-len(program) - 1 :] == [*program, "1 3"]
    script = ["bash", str(ROOT / "tools/slurm_train.sh"), "gpu", "3", *program]
    search = f"{srun}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "PATH": search}
    assert subprocess.run(script, env={**environment, "RECORD": str(record)}, check=False).returncode == 7
    assert record.read_text().splitlines() == ["--partition=gpu", *by_command]


@pytest.mark.slow
def test_what_cannot_be_started_is_said_in_a_sentence():
    ended = started("weaksam.engine.launchers", "slurm", "-", "2", "tool.py")
    assert ended.returncode == 2 and "wanted the command srun to start processes with" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    for arguments in (
        (),
        ("slurm", "gpu"),
        ("torchrun", "none", "tool.py"),
        ("mpi", "2", "tool.py"),
        ("torchrun", "2"),
    ):
        ended = started("weaksam.engine.launchers", *arguments)
        assert ended.returncode == 2 and "wanted 'torchrun NUM PROGRAM ...'" in ended.stderr, arguments
