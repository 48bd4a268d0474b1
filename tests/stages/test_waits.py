"""Every place where a training step waits for a GPU is named here: a new one in a step fails these tests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers import CPU, context, draw_discs, draw_squares
from tests.waits import recorded_waits
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.mask2former import mask2former_objective
from weaksam.engine.detectors.training import TrainableSettings, detector_objective
from weaksam.engine.loss_values import LossValues
from weaksam.engine.training import Objective, ObjectiveStep
from weaksam.engine.training_state import TrainingProgress
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask2former.targets import mask_target
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.models.wsod.targets import Seeds
from weaksam.stages.retrain.settings import RetrainSettings
from weaksam.stages.wsis.settings import Mask2FormerWsisSettings, WsisSettings
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.detector import WeakDetector
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.examples import TrainingExample, present_labels
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.devices import reading_waits_everywhere
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_mask, rle_from_mask

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
# RoIAlign as bags of embeddings, which the CPU alone computes
ALIGN_ON_THE_CPU = {"models/roi/align.py:sampled_cells: tensor"}
# Six numbers go to the device once, at the first photo
COLOURS = {"models/backbones/inputs.py:_channels: tensor"}
# Regions are sampled, and boxes to ignore left out of the matching, where torchvision's own code waits for the same
SAMPLED_REGIONS = {
    "models/detectors/faster_rcnn.py:_of_photo: nonzero",
    "models/detectors/ignored_regions.py:assign_targets_to_anchors: index",
    "models/detectors/region_proposals.py:forward: nonzero",
    "models/detectors/region_proposals.py:neighbourhoods: tensor",
    "models/detectors/roi_heads.py:_mask_losses: index",
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


def examples_of(dataset: Dataset) -> list[TrainingExample]:
    """Twenty proposals of each photo, one of which is its seed."""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for sample, tags in zip(dataset, dataset.tag_matrix(), strict=True):
        corner = torch.rand(20, 2, generator=generator) * torch.tensor([80.0, 50.0])
        boxes = torch.cat([corner, corner + 16 + 30 * torch.rand(20, 2, generator=generator)], dim=1)
        present = present_labels(tags)
        seeds = Seeds(torch.tensor([3]), present[:1], torch.ones(1))
        examples.append(TrainingExample(sample, boxes, tags, present, seeds))
    return examples


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


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_squares(tmp_path_factory.mktemp("squares"))


def with_masks(sample: Sample) -> Instances:
    """Its true boxes, each with itself as mask."""
    truth = sample.truth or Instances.empty()
    return truth.replace(masks=tuple(rle_from_mask(box_mask(box, sample.size)) for box in truth.boxes))


SMALL = {"short_side": 64, "long_side": 96, "fpn_channels": 8, "representation": 16, "rpn_batch": 16, "roi_batch": 8}


@pytest.mark.parametrize(
    ("settings", "build"),
    [(RetrainSettings(**SMALL), build_faster_rcnn), (WsisSettings(**SMALL), build_mask_rcnn)],
    ids=["retrain", "masks"],
)
def test_a_detector_step_waits_in_the_code_of_torchvision_alone(
    squares: Dataset, settings: TrainableSettings, build: Any
) -> None:
    torch.manual_seed(0)
    model = build(MOBILENET, settings, 2)
    truths = {sample.image_id: with_masks(sample) for sample in squares if sample.tags}
    photos = TrainingPhotos(squares, truths, settings.short_side, settings.long_side, "training")
    batch = next(iter(photos.epoch(0, 2, settings, 0)))
    with as_on_a_gpu(True):
        waits = waits_of(model, [detector_objective(model, settings, CPU)], batch)
    own = {wait for wait in waits if "(torchvision)" not in wait and "(torch.optim)" not in wait}
    assert own <= ALIGN_ON_THE_CPU | COLOURS | SAMPLED_REGIONS
    assert waits - own  # torchvision's own, which are many


# The costs of a step are copied to the CPU once, where scipy matches them
MATCHING = {"models/query/matching.py:match_queries: cpu", "models/query/matching.py:match_queries: numpy"}
# The sizes of a pyramid's levels, few numbers, go to the device: by us and by transformers
LEVELS = {
    "models/detectors/mask2former/decoder.py:forward: tensor",
    "models/detectors/mask2former/network.py:predictions: as_tensor",
}
# Deformable attention as bags of embeddings, which the CPU alone computes
BAGS_ON_THE_CPU = {
    "models/query/deformable_attention.py:_cells: tensor",
    "models/query/deformable_attention.py:_samples: new_tensor",
}


def test_a_step_of_mask2former_waits_for_its_matching_alone(squares: Dataset) -> None:
    torch.manual_seed(0)
    settings = Mask2FormerWsisSettings(
        short_side=64, long_side=96, channels=32, encoder_layers=1, decoder_layers=2, num_queries=5
    )
    model = build_mask2former(MOBILENET, settings, 2)
    truths = {sample.image_id: with_masks(sample) for sample in squares if sample.tags}
    photos = TrainingPhotos(squares, truths, 64, 96, "training", target=mask_target)
    batch = next(iter(photos.epoch(0, 2, settings, 0)))
    with as_on_a_gpu(True):
        waits = waits_of(model, [mask2former_objective(model, settings, CPU)], batch)
    assert waits - COLOURS == MATCHING | LEVELS | BAGS_ON_THE_CPU


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
