"""`benchmarks/retrain_switches.py`: which boxes are removed, and a toy run that trains each way once and resumes."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import ROOT, instances, toy_run
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.pipeline.settings import RunSettings


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("retrain_switches")


def test_a_share_of_the_true_boxes_is_removed(benchmark: ModuleType) -> None:
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]
    truths = {f"{number}.jpg": instances(boxes, [0, 1, 2], difficult=[False] * 3) for number in range(20)}
    truths["empty.jpg"] = instances([])
    left = benchmark.without_share(truths, 0.3, 0)
    assert sum(map(len, left.values())) == 42 and set(left) == set(truths) and len(left["empty.jpg"]) == 0
    whole = {(0, 0), (20, 1), (40, 2)}
    for of_photo in left.values():
        assert set(zip(of_photo.boxes[:, 0].tolist(), of_photo.labels.tolist(), strict=True)) <= whole
    assert benchmark.without_share(truths, 0.3, 0)["3.jpg"].boxes.equal(left["3.jpg"].boxes)
    other = benchmark.without_share(truths, 0.3, 1)
    assert any(len(other[image_id]) != len(of_photo) for image_id, of_photo in left.items())
    assert sum(map(len, benchmark.without_share(truths, 1.0, 0).values())) == 0


@pytest.mark.slow
def test_every_way_is_trained_once_and_tabled(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = toy_run(tmp_path)
    out = tmp_path / "out"
    pipeline.run(load_settings(RunSettings, None, [*toy, f"out={out}"]), until="pseudo_gt")
    names = ["base", "partly", "given_proposals", "not_pasted", "f_beta", "removed_base", "removed_tags", "true_boxes"]
    monkeypatch.setattr("sys.argv", ["retrain_switches.py", str(out), "--variants", *names, "--set", "lr=0.001"])
    capsys.readouterr()
    benchmark.main()
    rows = [row for row in capsys.readouterr().out.split("\n\n")[-1].splitlines() if row.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["variant", *names]
    weights = sorted(out.rglob("switches/*/retrain/store/weights-*/weights.safetensors"))
    assert [path.relative_to(out).parts[1] for path in weights] == sorted(names)
    assert len({path.read_bytes() for path in weights}) == len(names)
    stamps = [path.stat().st_mtime_ns for path in weights]
    benchmark.main()
    assert [path.stat().st_mtime_ns for path in weights] == stamps
