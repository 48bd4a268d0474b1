"""The table of the choice over two seeds of a toy run: rows of each candidate, means, and what resumes."""

import importlib
from pathlib import Path

import pytest

from tests.helpers import ROOT, toy_run
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.pipeline.settings import RunSettings


@pytest.mark.slow
def test_a_table_of_two_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    choice_table = importlib.import_module("choice_table")
    toy = toy_run(tmp_path)
    outs = [tmp_path / "seed0", tmp_path / "seed1"]
    for seed, out in enumerate(outs):
        settings = [*toy, f"out={out}", f"seed={seed}"]
        pipeline.run(load_settings(RunSettings, None, settings), until="pseudo_gt")
    monkeypatch.setattr("sys.argv", ["choice_table.py", *map(str, outs)])
    capsys.readouterr()
    choice_table.main()
    table, note = capsys.readouterr().out.rsplit("\n\n", 1)
    rows = [line.strip("| ").split(" | ") for line in table[table.index("| run") :].splitlines()[2:]]
    names = ["weak", "retrained", "merged", "handed on"]
    assert [row[:2] for row in rows[:8]] == [[f"seed{seed}", name] for seed in (0, 1) for name in names]
    assert sum("chosen" in row[2] for row in rows[:8]) == 2
    assert [row[1] for row in rows[8:]] == names
    first, second, mean = (float(rows[index][4]) for index in (0, 4, 8))
    assert mean == pytest.approx((first + second) / 2, abs=0.0011)
    assert note.startswith("The choice was the best") and "of 2 runs" in note
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    choice_table.main()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")} == stamps
