"""The seals name the number of threads, and a run with another number says what was made with it."""

import json
from pathlib import Path

import torch

from tests.helpers import context, draw_squares, instances
from weaksam.engine.detectors.result import DetectorResult
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.training_state import seal
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.pipeline.plan import stage_named
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import Run
from weaksam.pipeline.threads import thread_notes
from weaksam.store.records import HASH_KEY
from weaksam.store.store import Store


def sealed_store(folder: Path) -> Store:
    store = Store(folder, stage="proposals", fingerprint="f", image_ids=["a.jpg"], columns={"n": "int"})
    return store.fill(lambda image_id: {"n": 1})


def sealed_weights(folder: Path) -> Path:
    seal(torch.nn.Linear(1, 1), TrainingJob(folder, "f", "toy", seed=0, num_epochs=0), [])
    return folder / "weights.safetensors"


def change_threads(folder: Path, threads: int) -> None:
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), "threads": threads}
    path.write_text(json.dumps({name: value for name, value in manifest.items() if name != HASH_KEY}))


def run_with(folder: Path, **results: object) -> Run:
    of_squares = context(folder / "out", draw_squares(folder))
    return Run(RunSettings(workers=1), of_squares, true_train=None, truths={}, results=results)


def test_what_was_made_with_another_number_of_threads_is_named(tmp_path):
    now = torch.get_num_threads()
    stores = {split: sealed_store(tmp_path / f"{split}-f") for split in ("train", "test")}
    result = DetectorResult(
        sealed_weights(tmp_path / "weights-f"), "f", {"test": sealed_store(tmp_path / "detections")}, BackboneSettings()
    )
    backbone = BackboneSettings(adapted=sealed_weights(tmp_path / "backbone-f"))
    pseudo_gt = {"a.jpg": instances([[0, 0, 1, 1]])}
    run = run_with(
        tmp_path, proposals=stores, weak_detector=result, clues=stores["train"], test_clues=None, backbone=backbone
    )
    run.results["pseudo_gt"] = pseudo_gt
    names = ("clues", "proposals", "wsod", "pseudo_gt")
    assert [thread_notes(run, stage_named(name)) for name in names] == [[], [], [], []]
    for folder in ("train-f", "test-f", "weights-f", "backbone-f"):
        change_threads(tmp_path / folder, now + 7)
    notes = {name: thread_notes(run, stage_named(name)) for name in names}
    assert [len(notes[name]) for name in names] == [1, 1, 1, 0]
    assert "clues: train-f, backbone-f made with" in notes["clues"][0]
    assert f"proposals: test-f, train-f made with threads={now + 7}, this run has {now}:" in notes["proposals"][0]
    assert "wsod: weights-f made" in notes["wsod"][0] and f"set threads={now + 7}" in notes["wsod"][0]


def test_a_seal_that_names_no_threads_says_nothing(tmp_path):
    store = sealed_store(tmp_path / "train-f")
    path = store.folder / "manifest.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in ("threads", HASH_KEY)})
    )
    assert thread_notes(run_with(tmp_path, proposals={"train": store}), stage_named("proposals")) == []
