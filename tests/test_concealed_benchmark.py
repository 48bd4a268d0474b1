"""The benchmark of concealed objects: scenes and folds of photos, its variants, and the table's lines."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import CPU, ROOT
from weaksam.config import load_settings
from weaksam.recipes.concealed import ConcealedSettings
from weaksam.recipes.concealed.fused_labels import stored_map
from weaksam.recipes.concealed.photos import load_concealed
from weaksam.recipes.concealed.recipe import training_targets
from weaksam.sam.ensemble import uncertainty
from weaksam.scenes.camouflage import CamouflageSettings, render_camouflage, write_camouflage
from weaksam.structures.scribbles import ScribbleStyle

SPLITS = ("train", "validation", "test")
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
    variants = ["single", "fused", "selection", concealed.EQUAL_STEPS, "true", "direct"]
    given = [str(tmp_path), *TOY.split(), "--labels", "points", "--num-points", "3", "--variants", *variants]
    table = rows(concealed, capsys, monkeypatch, *given)
    assert [row[:2] for row in table] == [["points", name] for name in variants]
    assert all(0 <= float(cell) <= 1.01 for row in table for cell in row[2:6])
    assert table[0][6] == "4" and table[4][6] == "-" and table[5][6] == "-"
    assert table[2][2:] == table[3][2:]  # all photos train, so the same epochs
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
    tested = []
    for fold in range(3):
        concealed.folds(photos, tmp_path / str(fold), ScribbleStyle("scribble", 10, 8, 0.0), fold)
        splits = [sorted(path.stem for path in (tmp_path / str(fold)).glob(f"{name}/Imgs/*")) for name in SPLITS]
        assert sorted([*splits[0], *splits[1], *splits[2]]) == [str(number) for number in range(6)]
        tested += splits[2]
    assert sorted(tested) == [str(number) for number in range(6)]  # each photo by one fold
    given = [str(tmp_path / "out"), *TOY.split(), "--photos", str(photos), "--variants", "fused"]
    (row,) = rows(concealed, capsys, monkeypatch, *given)
    assert row[:2] == ["scribble", "fused"] and row[6] == "3"
    splits = {
        path.name: sorted(file.stem for file in (path / "GT").iterdir())
        for path in (tmp_path / "out" / "scribble-0" / "data").iterdir()
    }
    assert splits == {"train": ["0", "1", "3"], "validation": ["4"], "test": ["2", "5"]}


def test_a_line_has_mean_and_deviation_of_what_was_measured(concealed) -> None:
    rows = [[0.25, 1, 1, 1, 40, 0.5, None], [0.75, 1, 1, 1, 42, None, None]]
    text = "| points | fused | 0.500 ± 0.354 | 1.000 ± 0.000 | 1.000 ± 0.000 | 1.000 ± 0.000 | 41 ± 1 | 0.500 | - |"
    assert concealed.line("points", "fused", rows) == text
    assert concealed.line("points", "fused", rows[:1]).split(" | ")[2:4] == ["0.250", "1.000"]


def test_fewer_photos_train_for_the_steps_of_all(concealed, tmp_path: Path) -> None:
    """Of 4 photos, in batches of 1, two are certain enough: 3 epochs of 4 steps become 6 epochs of 2."""
    write_camouflage(tmp_path / "data", CamouflageSettings(size=64, difference=1.0), 4, 2, 2, seed=1)
    given = f"data.train.root={tmp_path / 'data' / 'train'} out={tmp_path / 'out'} segmenter.family=nano labels.views=2"
    given += " training.batch_size=1 training.num_epochs=3 training.validate_every=2 labels.max_relative=1000"
    wanted = load_settings(ConcealedSettings, None, given.split())
    photos = load_concealed(wanted.data.train, "train")
    targets = training_targets(
        wanted.model_copy(update={"labels": wanted.labels.model_copy(update={"select": False})}), photos, CPU
    )
    doubts = sorted(
        uncertainty(stored_map(targets.labels, photos, image_id), "foreground").absolute
        for image_id in photos.image_ids
    )
    assert doubts[1] < doubts[2]
    limit = (doubts[1] + doubts[2]) / 2
    limited = wanted.model_copy(update={"labels": wanted.labels.model_copy(update={"max_absolute": limit})})
    longer = concealed.with_equal_steps(limited)
    assert (longer.training.num_epochs, longer.training.validate_every) == (6, 4)
    assert longer.training.batch_size == 1 and longer.labels == limited.labels
