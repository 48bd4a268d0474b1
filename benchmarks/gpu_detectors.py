"""What `benchmarks/gpu.py` times of the detectors, of the classifiers' training, and of sam_nano: see `gpu_stages`."""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from gpu_stages import TOY_DETECTOR, Bench, Timed, loop_steps

TOY_QUERIES = {
    "short_side": 64, "long_side": 96, "batch_size": 2, "embed_dims": 32, "num_heads": 4, "ffn_dims": 32,
    "norm_groups": 8, "num_queries": 15, "num_denoising": 10, "encoder_layers": 1, "decoder_layers": 2,
}  # fmt: skip
DINO = {
    "short_side": 800, "long_side": 1333, "batch_size": 2, "embed_dims": 256, "ffn_dims": 2048, "encoder_layers": 6,
    "decoder_layers": 6, "num_queries": 900,
}  # fmt: skip
"""The published size of DINO with four levels."""
TOY_MASKS = {
    "short_side": 64, "long_side": 96, "batch_size": 2, "channels": 32, "encoder_layers": 1, "decoder_layers": 2,
    "num_queries": 5,
}  # fmt: skip
MASK2FORMER = {
    "short_side": 800, "long_side": 1333, "batch_size": 2, "channels": 256, "encoder_layers": 6, "decoder_layers": 9,
    "encoder_width": 1024, "decoder_width": 2048, "num_queries": 100, "losses": {"num_points": 12544},
}  # fmt: skip
"""The published size of Mask2Former on ResNet-50."""


def _rcnn(bench: Bench, masks: bool) -> tuple[Any, Any, Any]:
    """The settings, the untrained network and the objective of retraining, or of the masks."""
    from weaksam.engine.detectors.training import detector_objective
    from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
    from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
    from weaksam.stages.retrain.settings import RetrainSettings
    from weaksam.stages.wsis.settings import WsisSettings

    sizes: Any = TOY_DETECTOR if bench.toy else {}
    settings: Any = WsisSettings(**sizes) if masks else RetrainSettings(**sizes)
    build: Any = build_mask_rcnn if masks else build_faster_rcnn
    return settings, _network(bench, build, settings), detector_objective


def _dino(bench: Bench) -> tuple[Any, Any, Any]:
    from weaksam.engine.detectors.dino import dino_objective
    from weaksam.models.detectors.dino.build import build_dino
    from weaksam.stages.retrain.settings import DinoRetrainSettings

    sizes: Any = TOY_QUERIES if bench.toy else DINO
    settings = DinoRetrainSettings(**sizes, precision=bench.precision)
    return settings, _network(bench, build_dino, settings), dino_objective


def _mask2former(bench: Bench) -> tuple[Any, Any, Any]:
    from weaksam.engine.detectors.mask2former import mask2former_objective
    from weaksam.models.detectors.mask2former.network import build_mask2former
    from weaksam.stages.wsis.settings import Mask2FormerWsisSettings

    sizes: Any = TOY_MASKS if bench.toy else MASK2FORMER
    settings = Mask2FormerWsisSettings(**sizes, precision=bench.precision)
    return settings, _network(bench, build_mask2former, settings), mask2former_objective


def _network(bench: Bench, build: Any, settings: Any) -> Any:
    torch.manual_seed(0)
    return build(bench.context("resnet50").backbone, settings, bench.num_classes).to(bench.device)


def _step(
    bench: Bench, name: str, parts: tuple[Any, Any, Any], target: Any = None, precision: str = "float32"
) -> Timed:
    """A step of the training loop on photos whose every box has itself as mask."""
    from weaksam.engine.detectors.batches import TrainingPhotos
    from weaksam.models.detectors.faster_rcnn import target_of
    from weaksam.structures.masks import box_mask, rle_from_mask

    settings, model, objective = parts
    truths = {
        image_id: truth.replace(masks=tuple(rle_from_mask(box_mask(box, bench.size)) for box in truth.boxes))
        for image_id, truth in bench.dataset.truths.items()
    }
    target = target or target_of
    photos = TrainingPhotos(bench.dataset, truths, settings.short_side, settings.long_side, "benchmark", target=target)
    batches = cycle(list(photos.epoch(0, settings.batch_size, settings, 0)))
    call = loop_steps(model, [objective(model, settings, bench.device)], batches)
    what = f"step of {name}, {settings.batch_size} photos of short side {settings.short_side}, {precision}"
    return Timed(call, settings.batch_size, what)


def retrain_step(bench: Bench) -> Timed:
    """A step of Faster R-CNN."""
    return _step(bench, "Faster R-CNN", _rcnn(bench, masks=False))


def dino_step(bench: Bench) -> Timed:
    """A step of DINO at its published size."""
    return _step(bench, "DINO", _dino(bench), precision=bench.precision)


def mask_step(bench: Bench) -> Timed:
    """A step of Mask R-CNN."""
    return _step(bench, "Mask R-CNN", _rcnn(bench, masks=True))


def mask2former_step(bench: Bench) -> Timed:
    """A step of Mask2Former at its published size."""
    from weaksam.models.detectors.mask2former.targets import mask_target

    return _step(bench, "Mask2Former", _mask2former(bench), mask_target, bench.precision)


def _detect(bench: Bench, name: str, parts: tuple[Any, Any, Any], detect: Any = None) -> Timed:
    """Detect on a photo as the stage does, the photo read and resized each time."""
    from weaksam.engine.detectors.detecting import detect_sample

    settings, model, _ = parts
    model.eval()
    detect, sample = detect or detect_sample, bench.dataset.samples[0]
    views = "and its mirror image" if settings.flip_test else "alone"
    what = f"detect with {name} on a photo {views}, short side {settings.short_side}"

    def call() -> None:
        detect(model, sample, settings, bench.device)

    return Timed(call, 1, what)


def retrain_detect(bench: Bench) -> Timed:
    """Detect with Faster R-CNN."""
    return _detect(bench, "Faster R-CNN", _rcnn(bench, masks=False))


def dino_detect(bench: Bench) -> Timed:
    """Detect with DINO."""
    return _detect(bench, "DINO", _dino(bench))


def mask_detect(bench: Bench) -> Timed:
    """Detect with Mask R-CNN, the masks pasted."""
    return _detect(bench, "Mask R-CNN", _rcnn(bench, masks=True))


def mask2former_detect(bench: Bench) -> Timed:
    """Segment with Mask2Former."""
    from weaksam.engine.detectors.mask2former import detect_sample_masks

    return _detect(bench, "Mask2Former", _mask2former(bench), detect_sample_masks)


def tag_network_step(bench: Bench) -> Timed:
    """A step of the backbone on the tags."""
    from weaksam.stages.clues import ClueSettings
    from weaksam.stages.clues.backbone_training import TagNetworkTraining

    settings = ClueSettings(finetune_epochs=1, finetune_batch=2 if bench.toy else 8, long_side=64 if bench.toy else 448)
    training = TagNetworkTraining(bench.context("resnet50"), settings)
    call = loop_steps(training.network, [training.objective()], cycle(list(training.batches(0))))
    size = f"{settings.finetune_batch} photos of long side {settings.long_side}"
    return Timed(call, settings.finetune_batch, f"step of a CNN on tags, {size}, views drawn")


def weaktr_step(bench: Bench) -> Timed:
    """A step of WeakTr, DeiT-S unless of toy size; the batch is drawn once."""
    from weaksam.models.weaktr.build import build_weaktr
    from weaksam.models.weaktr.network import WeakTrSettings
    from weaksam.stages.clues.weaktr_training import WeakTrTraining, WeakTrTrainingSettings

    shape: Any = {"width": 32, "depth": 2, "num_heads": 2} if bench.toy else {}
    num = 2 if bench.toy else 8
    settings = WeakTrTrainingSettings(batch_size=num, held_out=0.0, precision=bench.precision)
    torch.manual_seed(0)
    model = build_weaktr(WeakTrSettings(**shape), bench.num_classes).to(bench.device)
    training = WeakTrTraining(model, bench.dataset, settings, bench.folder / "weaktr", "f", 0, bench.device)
    batch = next(iter(training.photos.varied(0, num)))
    call = loop_steps(model, [training.objective()], cycle([batch]))
    return Timed(call, num, f"step of WeakTr, {num} photos of side {settings.image_size}, {bench.precision}")


def nano_step(bench: Bench) -> Timed:
    """A step of sam_nano's training, the batch drawn once."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
    from train_sam_nano import NanoTraining, parse_arguments

    from weaksam.sam.nano.model import Architecture

    spec = Architecture(dim=32, width=8, deep=32, depth=1) if bench.toy else None
    num = 2 if bench.toy else 8
    args = parse_arguments(["--images", str(num), "--scenes", "4", "--precision", bench.precision])
    training = NanoTraining(args, bench.device, spec)
    call = loop_steps(training.model, [training.objective()], cycle([training.batches(0)[0]]))
    return Timed(call, num, f"step of sam_nano, {num} scenes of 8 prompts, {bench.precision}")


def nano_propose(bench: Bench) -> Timed:
    """Encode a photo with sam_nano and propose for it by the dense grid."""
    from weaksam.sam.nano.segmenter import SamNano
    from weaksam.stages.proposals.prompting import propose
    from weaksam.stages.proposals.settings import ProposalSettings

    segmenter, image = SamNano.load(device=bench.device), bench.image()
    settings = ProposalSettings(grid_side=4 if bench.toy else 32)
    what = f"proposals of sam_nano, grid of {settings.grid_side} points a side"
    return Timed(lambda: propose(segmenter, image, None, settings), 1, what)
