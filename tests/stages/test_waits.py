"""Every place where a step of the weak detectors waits for a GPU is named here, for every rule of seeds.

The other trainings, and inference, are held against their lists in `tests/stages/test_fake_cuda.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers import context, draw_discs
from tests.training_steps import examples_of
from tests.waits import recorded_waits
from weaksam.engine.loss_values import LossValues
from weaksam.engine.training import Objective, ObjectiveStep
from weaksam.engine.training_state import TrainingProgress
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.detector import WeakDetector
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.structures.dataset import Dataset
from weaksam.structures.devices import reading_waits_everywhere

MOBILENET = BackboneSettings(name="mobilenet_v2", weights="none")

# Adam counts its steps in tensors of the CPU, wherever the weights are
ADAM = {
    "engine/mixed_precision.py:step (torch.optim): tensor",
    "engine/mixed_precision.py:step (torch.optim): _local_scalar_dense",
}
# On the CPU alone, where reading is free: `reading_is_free` is asked first
ON_THE_CPU = {
    "models/wsod/targets.py:without_padding: nonzero",
    "stages/wsod/seeds/overlaps.py:_settled: equal",
    "stages/wsod/seeds/pcl.py:_anywhere: nonzero",
    "structures/bits.py:_packed_by_numpy: numpy",
    "engine/loss_values.py:fetch: tolist",  # on a GPU for twenty steps together
}
# The proposals whose features are kept, compared with those asked for: both lie on the CPU
KEPT_REGIONS = {"stages/wsod/photo_features.py:pooled: equal"}
# The rules `scores`, `relocation` and `class_maps` suppress class by class with torchvision's NMS
SEPARATE_SEEDS = {
    "stages/wsod/seeds/scores.py:separate_seeds: _local_scalar_dense",
    "stages/wsod/seeds/scores.py:separate_seeds: nonzero",
}

SETTINGS = WsodSettings(
    mode="end_to_end",
    seeds="mist",
    box_regression=True,
    background_column=True,
    hidden=16,
    roi_size=3,
    num_branches=2,
    warmup_steps=2,
    end_to_end=EndToEndSettings(short_sides=(64,), drop_block=True, read_ahead=0),
)
FOR_PCL = {"box_regression": False, "background_column": False}


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_discs(tmp_path_factory.mktemp("discs"), 2)


@contextmanager
def as_on_a_gpu(yes: bool) -> Iterator[None]:
    with reading_waits_everywhere() if yes else nullcontext():
        yield


def waits_of(model: nn.Module, objectives: Sequence[Objective], batch: Any, num_steps: int = 2) -> set[str]:
    """What waits in steps of the training loop itself."""
    values = LossValues(TrainingProgress(), "training", 10)
    steps = [ObjectiveStep(model, objective, number, 10, values) for number, objective in enumerate(objectives)]
    model.train()
    with recorded_waits() as waits:
        for number in range(num_steps):
            for step in steps:
                step.take(batch, number)
    return set(waits)


def end_to_end(out: Path, dataset: Dataset, **changes: Any) -> EndToEndDetector:
    torch.manual_seed(0)
    settings = WsodSettings.model_validate({**dict(SETTINGS), **changes})
    return EndToEndDetector(context(out, dataset, backbone=MOBILENET), settings)


def waits_of_weak(detector: WeakDetector, dataset: Dataset) -> set[str]:
    return waits_of(detector.model, detector.objectives(), detector.batches(examples_of(dataset))[0])


@pytest.mark.parametrize("seeds", ["mist", "oicr", "oicr_top", "pcl"])
def test_no_published_step_waits_for_a_gpu(discs: Dataset, tmp_path: Path, seeds: str) -> None:
    detector = end_to_end(tmp_path, discs, seeds=seeds, **(FOR_PCL if seeds == "pcl" else {}))
    with as_on_a_gpu(True):
        assert waits_of_weak(detector, discs) <= ADAM


@pytest.mark.parametrize("seeds", ["relocation", "class_maps", "scores"])
def test_seeds_suppressed_class_by_class_wait_in_one_function_alone(discs: Dataset, tmp_path: Path, seeds: str) -> None:
    detector = end_to_end(tmp_path, discs, seeds=seeds)
    with as_on_a_gpu(True):
        assert waits_of_weak(detector, discs) <= ADAM | SEPARATE_SEEDS


@pytest.mark.parametrize("seeds", ["mist", "oicr", "pcl"])
def test_on_the_cpu_steps_read_values_only_where_reading_is_free(discs: Dataset, tmp_path: Path, seeds: str) -> None:
    detector = end_to_end(tmp_path, discs, seeds=seeds, **(FOR_PCL if seeds == "pcl" else {}))
    assert waits_of_weak(detector, discs) <= ADAM | ON_THE_CPU


@pytest.mark.parametrize("seeds", ["mist", "oicr", "oicr_top", "pcl"])
def test_losses_are_the_same_whether_reading_is_free_or_not(discs: Dataset, tmp_path: Path, seeds: str) -> None:
    detector = end_to_end(tmp_path, discs, seeds=seeds, dropout=0.0, **(FOR_PCL if seeds == "pcl" else {}))
    detector.objectives()
    detector.model.train()
    batch = detector.batches(examples_of(discs))[0]
    losses = []
    for on_a_gpu in (False, True):
        torch.manual_seed(1)
        detector.examples.clear()
        with as_on_a_gpu(on_a_gpu):
            losses += [{name: value.item() for name, value in part.items()} for part in detector.losses(batch)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("seeds", ["relocation", "mist"])
def test_the_frozen_step_reads_values_of_the_cpu_alone(discs: Dataset, tmp_path: Path, seeds: str) -> None:
    """Its losses are computed on the CPU, to which each photo's answer goes in one copy."""
    settings = WsodSettings(seeds=seeds, hidden=16, reduced=8, long_side=64, roi_size=3)
    detector = FrozenDetector(context(tmp_path, discs, backbone=MOBILENET), settings)
    detector.begin_training()
    for example in examples_of(discs):
        detector.photos.pooled(example.sample, example.boxes, settings.roi_size)
    assert waits_of_weak(detector, discs) <= ON_THE_CPU | SEPARATE_SEEDS | KEPT_REGIONS


def test_the_recorder_sees_every_way_to_look_at_a_value() -> None:
    values = torch.tensor([1.0, 0.0, 2.0])
    looks = {
        "_local_scalar_dense": lambda: values[0].item(),
        "nonzero": lambda: values.nonzero(),
        "masked_select": lambda: values.masked_select(values > 0),
        "index": lambda: values[values > 0],
        "index_put_": lambda: values.clone().__setitem__(values > 0, torch.tensor([5.0, 6.0])),
        "equal": lambda: torch.equal(values, values),
        "tolist": lambda: values.tolist(),
        "numpy": lambda: values.numpy(),
        "cpu": lambda: values.cpu(),
        "tensor": lambda: torch.tensor([1.0]),
        "new_tensor": lambda: values.new_tensor([1.0]),
    }
    for name, look in looks.items():
        with recorded_waits() as waits:
            look()
        assert any(wait.endswith(f": {name}") for wait in waits), (name, waits)
    with recorded_waits() as waits:
        _ = values[torch.arange(2)] + torch.where(values > 0, values, 0.0).sum()
    assert not waits
