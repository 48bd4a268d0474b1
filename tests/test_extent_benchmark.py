"""The table of rules and tighter boxes: the rows of a toy run, and masks' boxes only where they agree."""

import importlib
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT, instances, toy_run
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.structures.instances import Instances


def test_the_rows_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    extent = importlib.import_module("extent")
    toy = toy_run(tmp_path)
    out = tmp_path / "out"
    settings = load_settings(RunSettings, None, [*toy, f"out={out}"])
    pipeline.run(settings, until="proposals")
    with pytest.raises(UserError, match="wsod"):
        extent.open_detected(out)
    pipeline.run(settings, until="wsod")
    run = extent.open_detected(out)

    detections = run.results["weak_detector"].detections("train")
    assert extent.moved_detections(run, "train", extent.as_they_are).keys() == detections.keys()
    moved = extent.moved_detections(run, "train", extent.voted())
    assert any(not torch.equal(moved[name].boxes, detections[name].boxes) for name in detections)

    image_id = min(detections)
    box = instances([[8, 8, 40, 40]], [0], [0.5])
    never, always = extent.mask_boxes(1.0), extent.mask_boxes(0.0)
    assert torch.equal(never(run, "train", image_id, box).boxes, box.boxes)
    assert always(run, "train", image_id, box).scores is box.scores
    assert len(always(run, "train", image_id, Instances.empty(scored=True))) == 0

    monkeypatch.setattr("sys.argv", ["extent.py", str(out), str(out)])
    capsys.readouterr()
    extent.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == list(extent.MECHANISMS)
    num_boxes = {row[0]: int(row[3]) for row in rows}
    tags = sum(len(sample.tags) for sample in run.context.train)
    assert num_boxes["top-1"] <= tags and num_boxes["top-1, ignore_from=0.5"] == num_boxes["top-1"]


def test_a_cell_holds_a_count_or_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    cell = importlib.import_module("extent").cell
    assert cell("boxes", 12.6) == "13" and cell("AP75", 0.4567) == "0.457" and cell("covered", float("nan")) == "-"
