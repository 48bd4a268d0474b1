"""Kills in front of file operations leave nothing that an unbroken run would not, once the run was resumed."""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import PROCESSES, ROOT

pytestmark = pytest.mark.slow

OPERATIONS = (3, 9, 17, 24, 31, 38, 45, 52, 59)
"""File operations from the start of a process, the next of which is prevented by SIGKILL: one process each."""


def kill_again_and_again(folder: Path) -> None:
    """Body of a process that may fork: it has no threads. Exit code 1 where anything differs."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    kills = importlib.import_module("kills")
    torch.set_num_threads(1)
    kills.small_parts()
    kills.write_scenes(folder / "scenes")

    def run(name: str, operation: int | None = None) -> int | None:
        settings = kills.toy_settings(folder / "scenes", folder / name)
        body = lambda: kills.run_command(settings, operation=operation, until="proposals")  # noqa: E731
        return kills.wait(kills.fork(body, folder / f"{name}.txt"))

    assert run("unbroken") == 0
    codes = [run("killed", operation) for operation in OPERATIONS]
    assert codes.count(-9) >= len(OPERATIONS) - 2, codes
    assert run("killed") == 0
    differences = kills.differences(kills.listing(folder / "unbroken"), kills.listing(folder / "killed"))
    (folder / "differences").write_text("\n".join(differences))
    os._exit(1 if differences else 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_kills_at_file_operations_leave_nothing_and_change_nothing(tmp_path):
    process = PROCESSES.Process(target=kill_again_and_again, args=(tmp_path,))
    process.start()
    process.join()
    differences = tmp_path / "differences"
    assert differences.exists(), [path.read_text() for path in tmp_path.glob("*.txt")]
    assert differences.read_text() == ""
