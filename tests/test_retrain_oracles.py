"""The diagnosis of retraining: what each run is taught, by hand, and all of them on a toy run, which resumes."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.helpers import ROOT, instances, toy_run
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.pipeline.settings import RunSettings


@pytest.fixture
def oracles(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("retrain_oracles")


FOUND, MISSED, PART = [0, 0, 40, 40], [60, 0, 100, 40], [60, 0, 100, 12]
NEAR, FAR = [0, 0, 40, 36], [200, 200, 220, 220]


def test_what_each_run_is_taught(oracles: ModuleType) -> None:
    truth = instances([FOUND, MISSED], [0, 0], difficult=[False, False], crowd=[False, False])
    pseudo_gt = instances([NEAR, PART, FAR], [0, 0, 0], [0.9, 0.8, 0.7])
    taught = {name: oracle(truth, pseudo_gt) for name, (_, oracle) in oracles.ORACLES.items()}
    assert {name: of_photo.boxes.tolist() for name, of_photo in taught.items()} == {
        "as_it_is": [NEAR, PART, FAR],
        "only_found": [FOUND],
        "missed_ignored": [NEAR, PART, FAR, MISSED],
        "missed_added": [NEAR, PART, FAR, MISSED],
        "moved": [FOUND, MISSED, FAR],
        "true_boxes": [FOUND, MISSED],
    }
    assert taught["missed_ignored"].crowd.tolist() == [False, False, False, True]
    assert all(of_photo.scores is None for of_photo in taught.values())
    crowds = truth.replace(crowd=torch.tensor([False, True]))
    assert len(oracles.missed_added(crowds, pseudo_gt)) == 3  # a crowd is not missed
    assert len(oracles.true_boxes(crowds, pseudo_gt).without_crowd()) == 1


@pytest.mark.slow
def test_every_run_is_trained_once_and_tabled(
    oracles: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = toy_run(tmp_path)
    out = tmp_path / "out"
    settings = load_settings(RunSettings, None, [*toy, f"out={out}"])
    pipeline.run(settings, until="wsod")
    monkeypatch.setattr("sys.argv", ["retrain_oracles.py", str(out), "--runs", "as_it_is", "missed_ignored", "moved"])
    with pytest.raises(UserError, match="wanted the finished stage pseudo_gt"):
        oracles.main()
    pipeline.run(settings, until="pseudo_gt")
    capsys.readouterr()
    oracles.main()
    table = [line for line in capsys.readouterr().out.split("\n\n")[-1].splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].strip("| ") for line in table] == [
        "taught",
        *(oracles.ORACLES[name][0] for name in ("as_it_is", "missed_ignored", "moved")),
    ]
    assert all(len(line.split("|")) == 9 for line in table)
    weights = sorted(out.rglob("retrain/store/weights-*/weights.safetensors"))
    assert [path.relative_to(out).parts[0] for path in weights] == ["oracles", "oracles", "retrain"]
    stamps = [path.stat().st_mtime_ns for path in weights]
    oracles.main()
    assert [path.stat().st_mtime_ns for path in weights] == stamps
