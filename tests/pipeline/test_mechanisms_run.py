"""A toy run with every mechanism of retraining on: it ends, is verified, and resumes without another training."""

import json
from pathlib import Path

import pytest

from tests.helpers import toy_run
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.pipeline.settings import RunSettings

MECHANISMS = [
    "wsod.guard=surroundings",
    "pseudo_gt.class_threshold=f_beta",
    "pseudo_gt.ignore_from=0.5",
    "retrain.num_epochs=2",
    "retrain.copy_paste.probability=1",
    "retrain.copy_paste.onto=any",
    "retrain.copy_paste.min_quality=0",
    "retrain.mosaic.probability=0.5",
    "retrain.teacher.weight=1",
    "retrain.teacher.min_score=0.1",
    "retrain.split.box_share=0.3",
    "retrain.split.teacher_share=0.2",
    "retrain.negatives.rule=detections",
]


@pytest.mark.slow
def test_a_run_with_every_mechanism_ends_and_is_verified(tmp_path: Path) -> None:
    settings = load_settings(RunSettings, None, [*toy_run(tmp_path), f"out={tmp_path / 'out'}", *MECHANISMS])
    pipeline.run(settings, until="retrain")
    out = settings.out
    events = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    names = {event["event"] for event in events}
    assert {"guard", "class thresholds", "cut-outs", "split by loss"} <= names
    verification = pipeline.verify_run(out)
    assert verification.faults == [] and verification.unfinished == []
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}
    pipeline.run(settings, until="retrain")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")} == stamps
