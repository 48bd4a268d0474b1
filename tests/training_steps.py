"""Build a step of every training at toy size, on any device and in any precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from tests.helpers import TOY_NANO, draw_discs, draw_squares
from tests.tools import tool
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.dino import dino_objective
from weaksam.engine.detectors.mask2former import mask2former_objective
from weaksam.engine.detectors.training import detector_objective
from weaksam.engine.log import RunLog
from weaksam.engine.loss_values import LossValues
from weaksam.engine.training import Objective, ObjectiveStep
from weaksam.engine.training_state import TrainingProgress
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, target_of
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask2former.targets import mask_target
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.models.weaktr.build import build_weaktr
from weaksam.models.weaktr.network import WeakTrSettings
from weaksam.models.wsod.targets import Seeds
from weaksam.stages.clues import ClueSettings
from weaksam.stages.clues.backbone_training import TagNetworkTraining
from weaksam.stages.clues.weaktr_training import WeakTrTraining, WeakTrTrainingSettings
from weaksam.stages.retrain.settings import DinoRetrainSettings, RetrainSettings
from weaksam.stages.wsis.settings import Mask2FormerWsisSettings, WsisSettings
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.examples import TrainingExample, present_labels
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_mask, rle_from_mask

NANO = BackboneSettings(name="sam_nano")
SIZE: dict[str, Any] = {"short_side": 64, "long_side": 96, "batch_size": 2}
DROP: dict[str, Any] = {"threshold": "share", "class_limit": 0.4, "box_limit": 0.4, "start_step": 0}
REGIONS: dict[str, Any] = {
    "fpn_channels": 8, "representation": 16, "rpn_pre_nms": 60, "rpn_post_nms": 40, "rpn_batch": 16, "roi_batch": 8,
}  # fmt: skip
NEGATIVES: dict[str, Any] = {"rule": "tags", "confident": 0.5, "start_share": 0.0}
DINO: dict[str, Any] = {
    "embed_dims": 32, "num_heads": 4, "ffn_dims": 32, "norm_groups": 8, "num_queries": 15, "num_denoising": 10,
    "encoder_layers": 1, "decoder_layers": 2,
}  # fmt: skip
MASK2FORMER: dict[str, Any] = {"channels": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 5}
WEAKTR = WeakTrSettings(width=32, depth=2, num_heads=2, patch_size=16, image_size=64, drop_path=0.5)


class Step(NamedTuple):
    """What a step of the training loop takes: the network, its objectives, and a batch."""

    model: nn.Module
    objectives: Sequence[Objective]
    batch: Any


class Bench:
    """Toy photos below ``folder``, and the ``device`` that steps on them compute on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "squares").mkdir(parents=True)
        self.discs, self.squares = draw_discs(folder / "discs", 3), draw_squares(folder / "squares")

    def context(self, device: torch.device, backbone: BackboneSettings = NANO) -> RunContext:
        """A run on the discs."""
        return RunContext(self.folder / "out", 0, device, self.discs, None, RunLog(), backbone)


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


def with_masks(sample: Sample) -> Instances:
    """Its true boxes, each with itself as mask."""
    truth = sample.truth or Instances.empty()
    return truth.replace(masks=tuple(rle_from_mask(box_mask(box, sample.size)) for box in truth.boxes))


def tag_network(bench: Bench, device: torch.device, precision: Any) -> Step:
    training = TagNetworkTraining(bench.context(device), ClueSettings(long_side=64, finetune_epochs=1))
    return Step(training.network, [training.objective()], next(training.batches(0)))


def weaktr(bench: Bench, device: torch.device, precision: Any) -> Step:
    settings = WeakTrTrainingSettings(batch_size=2, image_size=64, held_out=0.0, precision=precision)
    model = build_weaktr(WEAKTR, len(bench.discs.classes)).to(device)
    training = WeakTrTraining(model, bench.discs, settings, bench.folder / "weaktr", "f", 0, device)
    return Step(model, [training.objective()], next(iter(training.photos.varied(0, 2))))


def frozen(bench: Bench, device: torch.device, precision: Any, **changes: Any) -> Step:
    settings = WsodSettings(hidden=16, reduced=8, long_side=64, roi_size=3, box_regression=True, **changes)
    detector = FrozenDetector(bench.context(device), settings)
    detector.begin_training()
    detector.model.train()
    return Step(detector.model, detector.objectives(), detector.batches(examples_of(bench.discs))[0])


def end_to_end(bench: Bench, device: torch.device, precision: Any, **changes: Any) -> Step:
    own = EndToEndSettings(
        short_sides=(64,), drop_block=True, lighting=0.1, read_ahead=0, precision=precision, deterministic=False
    )
    settings = {"seeds": "mist", "box_regression": True, "background_column": True, "num_branches": 2, **changes}
    detector = EndToEndDetector(
        bench.context(device), WsodSettings(mode="end_to_end", hidden=16, roi_size=3, end_to_end=own, **settings)
    )
    return Step(detector.model, detector.objectives(), detector.batches(examples_of(bench.discs))[0])


def detector_step(
    bench: Bench, device: torch.device, settings: Any, build: Any, objective: Any, target: Any = target_of
) -> Step:
    """A step on the first batch of squares."""
    torch.manual_seed(0)
    model = build(NANO, settings, 2).to(device)
    truths = {sample.image_id: with_masks(sample) for sample in bench.squares}
    photos = TrainingPhotos(bench.squares, truths, 64, 96, "", target=target, boxless_as_background=True)
    batch = next(iter(photos.epoch(0, 2, settings, 0)))
    return Step(model, [objective(model, settings, device)], batch)


def faster_rcnn(bench: Bench, device: torch.device, precision: Any) -> Step:
    settings = RetrainSettings(**SIZE, **REGIONS, roi_drop={"gate": "independent", **DROP}, negatives=NEGATIVES)
    return detector_step(bench, device, settings, build_faster_rcnn, detector_objective)


def mask_rcnn(bench: Bench, device: torch.device, precision: Any) -> Step:
    settings = WsisSettings(**SIZE, **REGIONS)
    return detector_step(bench, device, settings, build_mask_rcnn, detector_objective)


def dino(bench: Bench, device: torch.device, precision: Any) -> Step:
    settings = DinoRetrainSettings(
        **SIZE, **DINO, precision=precision, query_drop={"gate": "class", **DROP}, negatives=NEGATIVES
    )
    return detector_step(bench, device, settings, build_dino, dino_objective)


def mask2former(bench: Bench, device: torch.device, precision: Any) -> Step:
    settings = Mask2FormerWsisSettings(**SIZE, **MASK2FORMER, precision=precision)
    return detector_step(bench, device, settings, build_mask2former, mask2former_objective, mask_target)


def sam_nano(bench: Bench, device: torch.device, precision: Any) -> Step:
    nano = tool("train_sam_nano")
    args = nano.parse_arguments(["--images", "2", "--prompts", "3", "--scenes", "2", "--precision", precision])
    training = nano.NanoTraining(args, device, TOY_NANO)
    return Step(training.model, [training.objective()], training.batches(0)[0])


STEPS: dict[str, Callable[..., Step]] = {
    "tag network": tag_network,
    "WeakTr": weaktr,
    "frozen": frozen,
    "end to end": end_to_end,
    "Faster R-CNN": faster_rcnn,
    "DINO": dino,
    "Mask R-CNN": mask_rcnn,
    "Mask2Former": mask2former,
    "sam_nano": sam_nano,
}
"""``(bench, device, precision)`` to a step, by the name of what trains; precision is one of its settings, if it has."""


def take_steps(step: Step, num_steps: int = 2) -> dict[str, float]:
    """Take steps of the training loop itself on one batch; the sum of every loss."""
    progress = TrainingProgress()
    values = LossValues(progress, "training", 10)
    parts = [ObjectiveStep(step.model, objective, n, 10, values) for n, objective in enumerate(step.objectives)]
    step.model.train()
    for number in range(num_steps):
        for part in parts:
            part.take(step.batch, number)
    values.fetch()
    return progress.sums
