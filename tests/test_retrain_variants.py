"""The variants of retraining: what each is taught, and the table over two seeds of a toy run, which resumes."""

import importlib
from pathlib import Path

import pytest

from tests.helpers import ROOT, toy_run
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.pipeline.settings import RunSettings


@pytest.mark.slow
def test_variants_of_two_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    variants = importlib.import_module("retrain_variants")
    toy = toy_run(tmp_path)
    outs = [tmp_path / "seed0", tmp_path / "seed1"]
    for seed, out in enumerate(outs):
        pipeline.run(load_settings(RunSettings, None, [*toy, f"out={out}", f"seed={seed}"]), until="pseudo_gt")
    run = variants.open_finished(outs[0])
    tags = {sample.image_id: sample.tags for sample in run.context.train}
    for image_id, boxes in variants.boxes_of(run, "top1").items():
        assert sorted(boxes.labels.tolist()) == sorted(set(boxes.labels.tolist())) and set(boxes.labels.tolist()) <= {
            *tags[image_id]
        }
    names = ["weak_detector", "top1", "roi_drop"]
    arguments = ["--variants", *names, "--drop", "gate=independent", "threshold=share"]
    arguments += ["class_limit=0.2", "box_limit=0.2"]
    monkeypatch.setattr("sys.argv", ["retrain_variants.py", *map(str, outs), *arguments])
    capsys.readouterr()
    variants.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.split("\n\n")[-1].splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == names and all(row[1] == "2" and "±" in row[4] for row in rows)
    weights = sorted(tmp_path.rglob("variants/*/retrain/store/weights-*/weights.safetensors"))
    assert [path.relative_to(tmp_path).parts[:3:2] for path in weights] == [
        (seed, variant) for seed in ("seed0", "seed1") for variant in ("roi_drop", "top1")
    ]
    stamps = [path.stat().st_mtime_ns for path in weights]
    variants.main()
    assert [path.stat().st_mtime_ns for path in weights] == stamps


def test_a_cell_holds_mean_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    cell = importlib.import_module("retrain_variants").cell
    assert cell([0.5]) == "0.500" and cell([0.4, 0.6]) == "0.500 ± 0.141" and cell([]) == ""
