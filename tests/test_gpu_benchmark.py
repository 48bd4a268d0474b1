"""The script that times every stage on a GPU runs on the CPU at toy sizes, and one broken row leaves the others be."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import ROOT

SMOKE = ["--device", "cpu", "--toy", "--seconds", "0", "--row-seconds", "240"]
ROWS = """
import os, time
from gpu_stages import Timed

def broken(bench):
    raise ImportError("No module named 'higra'\\nand more")

def killed(bench):
    os._exit(3)

def slow(bench):
    time.sleep(600)

def fine(bench):
    import torch
    return Timed(lambda: torch.ones(8, 8) @ torch.ones(8, 8), 2, "a product, float32")

ROWS = {"broken": broken, "killed": killed, "slow": slow, "fine": fine}
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("gpu")


def rows_of(table: str) -> dict[str, list[str]]:
    """Cells by the name of the row."""
    lines = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    return {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines}


@pytest.mark.slow
def test_every_stage_has_a_row_with_its_figures(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([*SMOKE, "--most-seconds", "3600"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == list(importlib.import_module("gpu_rows").ROWS)
    for name, (what, milliseconds, per_second, speed, share, memory, waits) in rows.items():
        assert what and float(milliseconds) > 0 and float(per_second) > 0
        if speed:  # torch cannot count every network's operations
            assert float(speed) > 0 and share.endswith(" %"), name
        assert memory == "" and waits == ""  # there is no GPU
    assert sum(row[3] == "" for row in rows.values()) <= 2


def test_a_row_that_fails_dies_or_takes_too_long_says_so_and_leaves_the_others_be(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_rows.py").write_text(ROWS)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = [*SMOKE, "--rows", "some_rows"]
    assert gpu.main([*options, "--only", "e", "--row-seconds", "30"]) == 1
    assert gpu.main([*options, "--only", "slow", "--row-seconds", "3"]) == 1
    table = rows_of(capsys.readouterr().out)
    assert table["broken"][0] == "failed: ImportError: No module named 'higra'"
    assert table["killed"][0].startswith("failed: its process ended with")
    assert table["slow"][0] == "failed: took longer than 3 s"
    what, _, per_second, speed, share, _, _ = table["fine"]
    assert what == "a product, float32" and float(per_second) > 0 and float(speed) > 0 and share.endswith(" %")


def test_operations_are_counted_by_torch(gpu: ModuleType) -> None:
    import torch

    assert gpu.count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 5)) == 2 * 2 * 3 * 5


def test_rows_are_chosen_by_name_and_none_begins_after_the_last_second(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([*SMOKE, "--only", "sam", "--most-seconds", "0"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == ["sam encode", "sam decode", "sam boxes", "sam_nano propose", "sam_nano train"]
    assert all(cells[0].startswith("left out") for cells in rows.values())
