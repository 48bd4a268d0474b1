"""The weak detector and the clue classifiers on one and on two ranks: the same training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import CPU, context, draw_discs
from tests.ranks import Trained, assert_same_training, on_ranks, trained
from weaksam.models.ranks import ranks
from weaksam.models.weaktr.network import WeakTrSettings
from weaksam.stages.clues import ClueSettings, adapted_backbone
from weaksam.stages.clues.backbone_training import tag_network_file
from weaksam.stages.clues.weaktr_training import WeakTrTrainingSettings, train_weaktr
from weaksam.stages.clues.weaktr_views import WeakTrViewSettings
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.examples import TrainingExample, empty_seeds, present_labels
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.store.weights import load_state
from weaksam.structures.dataset import Dataset

# Six photos, one without a proposal: batches of four and of two, of which one photo may be left for two ranks
END_TO_END: dict[str, Any] = {"short_sides": (64, 96), "drop_block": True, "lighting": 0.1, "frozen_stages": 1}
WSOD: dict[str, Any] = {
    "seeds": "mist",
    "hidden": 16,
    "roi_size": 3,
    "num_branches": 2,
    "batch_size": 4,
    "box_regression": True,
    "long_side": 64,
    "reduced": 8,
    "clip_norm": 0.05,
}
MODES = {
    "frozen": {"mode": "frozen"},
    "end_to_end": {"mode": "end_to_end", "end_to_end": EndToEndSettings(**END_TO_END)},
    "passes_apart": {"mode": "end_to_end", "end_to_end": EndToEndSettings(**END_TO_END, photos_at_once=1)},
}
CLUES = ClueSettings(long_side=64, finetune_epochs=1, finetune_batch=4, finetune_lr=1e-5)
NETWORK = WeakTrSettings(width=32, depth=2, num_heads=2, patch_size=16, image_size=64, drop_path=0.5)
WEAKTR = WeakTrTrainingSettings(
    num_epochs=2,
    batch_size=3,
    lr=1e-3,
    warmup_epochs=1,
    image_size=64,
    held_out=0.34,
    views=WeakTrViewSettings(smallest_crop=0.5, operations=0),
)


def examples_of(discs: Dataset) -> list[TrainingExample]:
    """Every photo with its own number of proposals, the first with none."""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for number, (sample, tags) in enumerate(zip(discs, discs.tag_matrix(), strict=True)):
        corner = torch.rand(3 * number, 2, generator=generator) * torch.tensor([80.0, 50.0])
        boxes = torch.cat([corner, corner + 16 + 30 * torch.rand(3 * number, 2, generator=generator)], dim=1)
        examples.append(TrainingExample(sample, boxes, tags, present_labels(tags), empty_seeds()))
    return examples


def train_weak(discs: Dataset, out: Path, mode: str) -> Trained:
    """One epoch of the weak detector, in float64."""
    torch.manual_seed(0)
    settings, run_context = WsodSettings(**WSOD, **MODES[mode]), context(out, discs)
    detector = (FrozenDetector if mode == "frozen" else EndToEndDetector)(run_context, settings)
    detector.begin_training()
    detector.model.double()
    examples = examples_of(discs)

    def batches(epoch: int) -> list[Any]:
        of_epoch = list(detector.batches(examples))
        if mode == "frozen":
            return of_epoch
        photos = [tuple(replace(shown, pixels=shown.pixels.double()) for shown in batch.photos) for batch in of_epoch]
        return [replace(batch, photos=of_batch) for batch, of_batch in zip(of_epoch, photos, strict=True)]

    if mode == "frozen":  # features are kept in less than float32
        detector.model.register_forward_pre_hook(lambda model, inputs: (inputs[0].double(), *inputs[1:]))
    return trained(out, detector.model, detector.objectives(), batches, 2)


def train_clues(discs: Dataset, out: Path) -> dict[str, Any]:
    """Losses and weights of a tag network and of WeakTr."""
    run_context = context(out, discs)
    adapted = adapted_backbone(run_context, CLUES).adapted
    train_weaktr(discs, NETWORK, WEAKTR, out=out, seed=0, device=CPU)
    weaktr = next((out / "clues").glob("**/selection.json")).parent
    states = {"tags": tag_network_file(adapted), "weaktr": weaktr / "weights.safetensors"}
    return {
        name: (
            json.loads((path.parent / "manifest.json").read_text())["history"],
            {key: value.numpy() for key, value in load_state(path).items()},
        )
        for name, path in states.items()
    } | {"selection": json.loads((weaktr / "selection.json").read_text())["precision"]}


def train_all(discs: Dataset, out: Path) -> dict[str, Any]:
    """Everything, on as many ranks as there are."""
    weak = {mode: train_weak(discs, out / f"{mode} {ranks().size}", mode) for mode in MODES}
    return weak | train_clues(discs, out / f"clues {ranks().size}")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of one process, then of the two ranks."""
    out = tmp_path_factory.mktemp("ranks")
    discs = draw_discs(out, 6)
    return [*on_ranks(1, out, train_all, discs, out), *on_ranks(2, out, train_all, discs, out)]


@pytest.mark.parametrize("mode", MODES)
def test_the_weak_detector_on_two_ranks(mode: str, results: list[dict[str, Any]]) -> None:
    alone, first, second = (of_rank[mode] for of_rank in results)
    assert_same_training(alone, first, 1e-8)
    assert all(np.array_equal(value, second.weights[key]) for key, value in first.weights.items())
    assert ("drop_block" in first.losses) == (mode != "frozen")


@pytest.mark.parametrize("name", ["tags", "weaktr"])
def test_clue_classifiers_on_two_ranks(name: str, results: list[dict[str, Any]]) -> None:
    (history, weights), (of_first, of_first_weights), _ = (of_rank[name] for of_rank in results)
    assert len(history) == len(of_first) > 0
    for epoch, other in zip(history, of_first, strict=True):
        assert epoch == pytest.approx(other, rel=1e-5)
    for key, value in weights.items():
        assert np.abs(value - of_first_weights[key]).max() <= 2e-5 * max(1.0, np.abs(value).max()), key
    assert results[0]["selection"] == pytest.approx(results[1]["selection"], abs=1e-6)
