"""The script that times every stage on a GPU runs on the CPU at toy sizes, and one broken row leaves the others be."""

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.helpers import ROOT

SMOKE = ["--device", "cpu", "--toy", "--seconds", "0"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("gpu")


def rows_of(table: str) -> dict[str, list[str]]:
    """Cells by the name of the row."""
    lines = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    return {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines}


def test_every_stage_has_a_row_with_its_time(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(SMOKE) == 0
    printed = capsys.readouterr()
    rows = rows_of(printed.out)
    assert list(rows) == list(importlib.import_module("gpu_stages").STAGES)
    for what, milliseconds, per_second, memory, waits in rows.values():
        assert what and float(milliseconds) > 0 and float(per_second) > 0
        assert memory == "" and waits == ""  # there is no GPU


def test_a_row_that_fails_says_why_and_leaves_the_others_be(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = importlib.import_module("gpu_stages")

    def broken(bench: object) -> object:
        raise ImportError("No module named 'higra'\nand more")

    monkeypatch.setattr(stages, "STAGES", {"broken": broken, "sam boxes": stages.sam_boxes})
    assert gpu.main(SMOKE) == 1
    rows = rows_of(capsys.readouterr().out)
    assert rows["broken"][0] == "failed: ImportError: No module named 'higra'"
    assert float(rows["sam boxes"][1]) > 0


def test_rows_are_chosen_by_name_and_none_begins_after_the_last_second(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([*SMOKE, "--only", "sam", "--most-seconds", "0"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == ["sam encode", "sam decode", "sam boxes"]
    assert all(cells[0].startswith("left out") for cells in rows.values())
