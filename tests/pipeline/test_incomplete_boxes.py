"""A run whose detectors are taught by certain negatives and given proposals: both stages read what they need."""

import json
from pathlib import Path

import pytest

from tests.helpers import TOY_RUN
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.scenes.synthetic import SceneSettings, write_dataset


@pytest.mark.slow
def test_a_run_reads_the_weak_detector_and_the_proposals(tmp_path: Path) -> None:
    write_dataset(tmp_path, SceneSettings(size=64, num_classes=2, max_clutter=2, max_distractors=1), 5, 2, seed=1)
    data = [
        f"data.{split}.{name}={tmp_path / path}"
        for split in ("train", "test")
        for name, path in (("images", split), ("tags", f"tags_{split}.json"), ("truth", f"instances_{split}.json"))
    ]
    rules = ["retrain.negatives.rule=detections", "retrain.given_proposals=10", "wsis.negatives.rule=detections"]
    rules += ["retrain.negatives.confident=0.5", "retrain.negatives.start_share=0", "wsis.init_from_retrain=false"]
    out = tmp_path / "out"
    settings = load_settings(RunSettings, None, [*TOY_RUN, *data, *rules, "ceiling=true", f"out={out}"])
    pipeline.run(settings)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    doubtful = [entry for entry in log if entry.get("event") == "doubtful regions"]
    assert [entry["stage"] for entry in doubtful] == ["retrain", "wsis"]  # the ceilings' boxes are complete
    used = [entry for entry in log if entry.get("event") == "training photos"]
    assert all(entry["classes_without_box"] == [] for entry in used if entry["stage"].endswith("ceiling"))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}
    pipeline.run(settings)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")} == stamps
