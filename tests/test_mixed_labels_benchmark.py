"""`benchmarks/mixed_labels.py`: what is drawn from the true boxes, and a toy run that trains each way once."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.helpers import ROOT, instances, toy_run
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.pipeline.settings import RunSettings


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("mixed_labels")


def test_photos_points_and_counts_are_drawn_by_the_seed(benchmark: ModuleType) -> None:
    truths = {f"{number:02d}.jpg": instances([(0, 0, 30, 60), (30, 0, 36, 6)], [0, 1]) for number in range(40)}
    few, more = (benchmark.labels_of(f"mixed_{percent}", truths, 0, []) for percent in (5, 20))
    assert len(few) == 2 and len(more) == 8 and set(few) < set(more)
    assert (
        set(benchmark.labels_of("alone_5", truths, 0, []))
        == set(few)
        != set(benchmark.labels_of("mixed_5", truths, 1, []))
    )
    of_photo = next(iter(few.values()))
    assert of_photo.complete and of_photo.boxes.boxes.tolist() == [[0, 0, 30, 60], [30, 0, 36, 6]]
    points = benchmark.labels_of("points", truths, 0, [])
    assert len(points) == 40
    xy = torch.cat([of_photo.marks.extents[:1, :2] for of_photo in points.values()])
    low, high = torch.tensor([10.0, 20]), torch.tensor([20.0, 40])  # the middle third of 30 x 60
    assert bool(((low <= xy) & (xy <= high)).all()) and len(xy.unique(dim=0)) == 40
    assert benchmark.labels_of("counts", truths, 0, [])["00.jpg"].counts == {0: 1, 1: 1}
    assert benchmark.labels_of("tags", truths, 0, []) == {}
    assert len(benchmark.boxed_photos(["a", "b", "c"], 5, 0)) == 1
    order = ["07.jpg", "30.jpg", "02.jpg"]
    assert list(benchmark.labels_of("suggest_3", truths, 0, order)) == ["07.jpg", "30.jpg"]
    assert list(benchmark.labels_of("random_10", truths, 0, order)) == order


@pytest.mark.slow
def test_every_way_is_trained_once_and_tabled(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = toy_run(tmp_path)
    out = tmp_path / "out"
    pipeline.run(load_settings(RunSettings, None, [*toy, f"out={out}"]), until="pseudo_gt")
    monkeypatch.setattr("sys.argv", ["mixed_labels.py", str(out), "--variants", "tags", "mixed_20", "--pseudo-gt"])
    benchmark.main()
    rows = [row for row in capsys.readouterr().out.split("\n\n")[-1].splitlines() if row.startswith("| ")]
    assert rows[0] == "| labels | seeds | boxes | ignored | precision | recall |" and rows[1] != rows[2]
    assert not (out / "mixed").exists()
    monkeypatch.setattr("sys.argv", ["mixed_labels.py", str(out), "--variants", "random_10", "suggest_10", "--weak"])
    benchmark.main()
    rows = [row for row in capsys.readouterr().out.split("\n\n")[-1].splitlines() if row.startswith("| ")]
    assert rows[0] == "| labels | seeds | weak: AP50 | weak: AP75 | weak: AP .5:.95 |" and len(rows) == 3
    assert not list(out.rglob("mixed/*/retrain"))
    names = ["tags", "mixed_20", "points", "counts", "alone_20"]
    monkeypatch.setattr("sys.argv", ["mixed_labels.py", str(out), "--variants", *names])
    capsys.readouterr()
    benchmark.main()
    rows = [row for row in capsys.readouterr().out.split("\n\n")[-1].splitlines() if row.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["labels", *names]
    assert all("nan" not in row for row in rows[:-1]) and rows[-1].count("nan") == 6
    weights = sorted(out.rglob("mixed/*/retrain/store/weights-*/weights.safetensors"))
    assert [path.relative_to(out).parts[1] for path in weights] == sorted(names)
    assert len({path.read_bytes() for path in weights}) == len(names)
    weak = sorted(out.rglob("mixed/*/wsod/store/weights-*"))
    assert [path.relative_to(out).parts[1] for path in weak] == [
        "counts",
        "mixed_20",
        "points",
        "random_10",
        "suggest_10",
    ]
    stamps = [path.stat().st_mtime_ns for path in weights]
    benchmark.main()
    assert [path.stat().st_mtime_ns for path in weights] == stamps
