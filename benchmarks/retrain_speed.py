"""Time the training step of Faster R-CNN and Mask R-CNN: ours, its plain twin and torchvision's own, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/retrain_speed.py faster DATA WEIGHTS [--profile]
    OMP_NUM_THREADS=1 python benchmarks/retrain_speed.py mask DATA WEIGHTS

``DATA``: a folder with ``images/train``, ``annotations/image_labels_train.json`` and ``instances_train.json``, whose
true boxes are trained on (a box is its own mask where there is none); ``WEIGHTS``: of MobileNetV2. All at the stage's
default settings on the same photos: **ours** is what the stage runs, **without oneDNN's products** the same on MKL's,
**sorted** the same on batches sorted by the size of their views as the stage draws them, **fixed views** the same on
kept maps of the frozen stages, **plain** torchvision's modules in the stage's layout with RoIAlign of this project,
no memory kept and no fused optimizer (the stage as it was), **torchvision** its own detector of the same backbone,
pyramid, anchors and numbers of proposals with its own RoIAlign. CPU seconds of one thread, in rounds that take every
way in turn; photos per second are best and median over the rounds. Before that, losses and gradients of ours and of
the plain twin are compared. Prints markdown.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.engine.detectors.batches import DetectorBatch, TrainingPhotos
from weaksam.engine.detectors.training import detector_objective, frozen_stages
from weaksam.engine.kept_memory import kept_memory
from weaksam.models.backbones import products
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, detector_parts
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.stages.retrain import RetrainSettings
from weaksam.stages.wsis import WsisSettings
from weaksam.store.weights import load_state
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask

CPU = torch.device("cpu")
BATCHES_SORTED = 8
"""How many batches are sorted together in the last way."""
_PYRAMID = {"6": "0", "13": "1", "17": "2"}
"""Modules of torchvision's MobileNetV2 that give the pyramid's levels; the first four modules stay frozen."""


@dataclass(frozen=True)
class Way:
    """A detector, how it is trained, and the batches it is timed on."""

    step: Callable[[DetectorBatch], dict[str, Tensor]]
    batches: Sequence[DetectorBatch]
    keeps_memory: bool
    by_onednn: bool = True


def trained_photos(folder: Path, num: int, with_masks: bool) -> tuple[Dataset, dict[str, Instances]]:
    """The first photos that have boxes, and their true objects."""
    split = SplitSettings(
        images=folder / "images" / "train",
        tags=folder / "annotations" / "image_labels_train.json",
        truth=folder / "annotations" / "instances_train.json",
    )
    dataset = load_dataset(split, name="train")
    samples = [sample for sample in dataset if sample.truth is not None and len(sample.truth)][:num]
    objects = {sample.image_id: true_objects(sample, with_masks) for sample in samples}
    return replace(dataset, samples=tuple(samples)), objects


def true_objects(sample: Sample, with_masks: bool) -> Instances:
    """A photo's boxes, each with its mask where masks are wanted."""
    assert sample.truth is not None
    boxes, labels = sample.truth.boxes, sample.truth.labels
    if not with_masks:
        return Instances(boxes, labels)
    return Instances(boxes, labels, masks=sample.truth.masks or tuple(filled(box, sample.size) for box in boxes))


def filled(box: Tensor, size: tuple[int, int]) -> Any:
    """The box as a mask, RLE of a photo of ``size`` (H, W)."""
    mask = torch.zeros(size, dtype=torch.bool)
    x1, y1, x2, y2 = box.round().int().tolist()
    mask[y1:y2, x1:x2] = True
    return rle_from_mask(mask)


def torchvisions(settings: Any, backbone: BackboneSettings, num_classes: int) -> GeneralizedRCNN:
    """Torchvision's own detector of the same shape: its backbone, RoIAlign and layout."""
    features = torchvision.models.mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d).features
    state = load_state(backbone.weights, "MobileNetV2")
    wanted = features.state_dict()
    features.load_state_dict({name: state[f"features.{name}"] for name in wanted})
    features[:4].requires_grad_(False)
    body = BackboneWithFPN(features[:18], _PYRAMID, [32, 96, 320], settings.fpn_channels)
    parts = detector_parts(backbone, settings, num_classes)
    parts |= {"backbone": body, "box_roi_pool": MultiScaleRoIAlign(["0", "1", "2"], 7, 2)}
    parts |= {"min_size": settings.short_side, "max_size": settings.long_side, "_skip_resize": True}
    if not isinstance(settings, WsisSettings):
        return FasterRCNN(**parts)
    channels = settings.mask_channels
    return MaskRCNN(
        **parts,
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 14, 2),
        mask_head=MaskRCNNHeads(settings.fpn_channels, (channels,) * settings.mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, num_classes + 1),
    )


def step_of(model: GeneralizedRCNN, settings: Any, fused: bool) -> Callable[[DetectorBatch], dict[str, Tensor]]:
    """The stage's training step: losses, gradients, clipping and optimizer."""
    objective = detector_objective(model.train(), settings, CPU)
    if not fused:
        for group in objective.optimizer.param_groups:
            group["fused"] = False
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(batch: DetectorBatch) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        losses: Any = objective.losses(batch)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(trained, 10.0)
        objective.optimizer.step()
        return dict(losses)

    return step


def difference(ours: nn.Module, plain: nn.Module, batch: DetectorBatch, settings: Any) -> str:
    """How far losses and gradients of the two are apart on a batch, relative to the plain twin's."""
    gradients, losses = [], []
    for model in (ours, plain):
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        values: Any = detector_objective(model.train(), settings, CPU).losses(batch)
        torch.stack(list(values.values())).sum().backward()
        losses.append(torch.stack(list(values.values())).detach())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    pairs = zip(*gradients, strict=True)
    apart = [float((a - b).norm() / b.norm().clamp(min=1e-9)) for a, b in pairs]
    worst = float(((losses[0] - losses[1]) / losses[1]).abs().max())
    return (
        f"losses differ by at most {worst:.1e}, gradients of a tensor by {median(apart):.1e} (median), {max(apart):.1e}"
    )


def seconds(way: Way) -> float:
    """CPU seconds of a step on each of the batches; one step before is not counted."""
    onednn = patch.object(products, "_HAS_ONEDNN", products._HAS_ONEDNN and way.by_onednn)
    with onednn, kept_memory() if way.keeps_memory else nullcontext():
        way.step(way.batches[0])
        start = time.process_time()
        for batch in way.batches:
            way.step(batch)
        return time.process_time() - start


def print_profile(way: Way) -> None:
    """The operators that take most of a step."""
    with kept_memory(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        for batch in way.batches[:3]:
            way.step(batch)
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", choices=("faster", "mask"))
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--photos", type=int, default=32, help="photos of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print the operators of our step as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    masks = options.detector == "mask"
    settings: Any = WsisSettings() if masks else RetrainSettings()
    dataset, objects = trained_photos(options.data, options.photos, masks)
    photos = TrainingPhotos(dataset, objects, settings.short_side, settings.long_side, "photos")
    drawn, in_order = (list(photos.epoch(0, settings.batch_size, settings, 0, n)) for n in (1, BATCHES_SORTED))
    backbone, num_classes = BackboneSettings(weights=str(options.weights)), len(dataset.classes)
    build: Any = build_mask_rcnn if masks else build_faster_rcnn
    ours, plain = build(backbone, settings, num_classes), build(backbone, settings, num_classes, plain=True)
    plain.load_state_dict(ours.state_dict())
    print(f"{options.detector}, {len(photos)} photos of {options.data.name}")
    print(difference(ours, plain, drawn[0], settings))
    kept_views = settings.model_copy(update={"fixed_views": 1})
    photos.frozen = frozen_stages(ours.train(), kept_views, CPU)
    fixed, fixed_in_order = (list(photos.epoch(0, settings.batch_size, kept_views, 0, n)) for n in (1, BATCHES_SORTED))
    our_step = step_of(ours, settings, fused=True)
    ways = {
        "plain": Way(step_of(plain, settings, fused=False), drawn, False),
        "torchvision": Way(step_of(torchvisions(settings, backbone, num_classes), settings, fused=False), drawn, False),
        "ours without oneDNN's products": Way(our_step, drawn, True, by_onednn=False),
        "ours": Way(our_step, drawn, True),
        "ours, sorted": Way(our_step, in_order, True),
        "ours, fixed views": Way(our_step, fixed, True),
        "ours, both": Way(our_step, fixed_in_order, True),
    }
    if options.profile:
        print_profile(ways["ours"])
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
    print("| step | photos/s, best / median | times plain, of medians | times torchvision, of medians |")
    print("|---|---|---|---|")
    for name, taken in times.items():
        rate = f"{len(photos) / min(taken):.2f} / {len(photos) / median(taken):.2f}"
        ratios = [f"{median(times[other]) / median(taken):.2f}" for other in ("plain", "torchvision")]
        print(f"| {name} | {rate} | {ratios[0]} | {ratios[1]} |")
    print(f"load after: {os.getloadavg()[0]:.1f}; {options.rounds} rounds")


if __name__ == "__main__":
    main()
