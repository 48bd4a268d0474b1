"""The benchmark of concealed objects: scenes and folds of photos, its variants, and the table's lines."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT
from weaksam.scenes.camouflage import CamouflageSettings, render_camouflage

TOY = "--size 64 --epochs 1 --train 4 --test 2 --set labels.views=2 labels.max_absolute=1 labels.max_relative=1000"


@pytest.fixture
def concealed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("concealed")


def rows(concealed, capsys, monkeypatch, *arguments: str) -> list[list[str]]:
    """The cells of the table's lines that the command prints."""
    monkeypatch.setattr(sys, "argv", ["concealed.py", *arguments])
    concealed.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.slow
def test_variants_of_scenes(concealed, capsys, monkeypatch, tmp_path: Path) -> None:
    variants = ["single", "fused", "selection", "true", "direct"]
    given = [str(tmp_path), *TOY.split(), "--labels", "points", "--num-points", "3", "--variants", *variants]
    table = rows(concealed, capsys, monkeypatch, *given)
    assert [row[:2] for row in table] == [["points", name] for name in variants]
    assert all(0 <= float(cell) <= 1.01 for row in table for cell in row[2:6])
    assert table[0][6] == "4.000" and table[3][6] == "-" and table[4][6] == "-"
    labels = [sorted((tmp_path / "points-0" / name / "labels").rglob("part-*")) for name in ("fused", "selection")]
    assert labels[0][0].read_bytes() == labels[1][0].read_bytes()  # one store for both


@pytest.mark.slow
def test_folds_of_photos(concealed, capsys, monkeypatch, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(6):
        scene = render_camouflage(CamouflageSettings(size=64), number)
        for folder, pixels in (("images", scene.image), ("masks", scene.mask.astype(np.uint8) * 255)):
            (photos / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(photos / folder / f"{number}.png")
    given = [str(tmp_path / "out"), *TOY.split(), "--photos", str(photos), "--variants", "fused"]
    (row,) = rows(concealed, capsys, monkeypatch, *given)
    assert row[:2] == ["scribble", "fused"] and row[6] == "3.000"
    splits = {
        path.name: sorted(file.stem for file in (path / "GT").iterdir())
        for path in (tmp_path / "out" / "scribble-0" / "data").iterdir()
    }
    assert splits == {"train": ["0", "1", "3"], "validation": ["4"], "test": ["2", "5"]}


def test_a_cell_is_the_mean_of_what_was_measured(concealed) -> None:
    assert concealed.cell([0.25, None, 0.75]) == "0.500" and concealed.cell([None]) == "-"
