"""What `benchmarks/gpu.py` times of each stage: the stage's own classes on random weights and drawn photos.

Each function sets up one row and returns the call to time. What it needs is imported inside it, so that a package that
a bare machine lacks costs that row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from weaksam.engine.context import RunContext
from weaksam.engine.log import RunLog
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

VIT_B = {
    "image_size": 1024, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "window_size": 14,
    "global_blocks": (2, 5, 8, 11), "channels": 256, "mask_channels": 16, "num_masks": 3, "decoder_depth": 2,
    "decoder_mlp": 2048, "iou_depth": 3, "iou_hidden": 256,
}  # fmt: skip
TOY_VIT = {
    "image_size": 128, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 4, "global_blocks": (1,),
    "channels": 32, "mask_channels": 4, "decoder_mlp": 32, "iou_depth": 2, "iou_hidden": 16,
}  # fmt: skip
TOY_DETECTOR = {"short_side": 64, "long_side": 96, "fpn_channels": 16, "representation": 16, "batch_size": 2}


@dataclass(frozen=True)
class Timed:
    """What a row times: ``call`` handles ``num_photos`` photos; ``what`` says how."""

    call: Callable[[], object]
    num_photos: int
    what: str


class Bench:
    """What the rows share: drawn photos of VOC's size with boxes and tags, the device, and whether all is of toy size.

    Photos and what is made of them lie below ``folder``.
    """

    def __init__(self, folder: Path, device: torch.device, toy: bool) -> None:
        self.folder, self.device, self.toy = folder, device, toy
        self.size = (64, 96) if toy else (375, 500)
        self.num_photos, self.num_classes = (2, 6) if toy else (8, 20)
        self.precision: Any = "bfloat16" if device.type == "cuda" else "float32"

    @cached_property
    def dataset(self) -> Dataset:
        """Photos of coloured blocks, each block an object of the class of its number."""
        samples = [self._draw(number) for number in range(self.num_photos)]
        names = tuple(f"class{label}" for label in range(self.num_classes))
        return Dataset("train", names, tuple(range(1, len(names) + 1)), tuple(samples))

    def context(self, backbone: str) -> RunContext:
        """A run on the drawn photos; in toy size always with the smallest network."""
        name: Any = "mobilenet_v2" if self.toy else backbone
        weights = BackboneSettings(name=name, weights="none")
        return RunContext(self.folder / "out", 0, self.device, self.dataset, None, RunLog(), weights)

    def image(self, number: int = 0) -> np.ndarray:
        """A photo, uint8 ``(H, W, 3)``."""
        return np.asarray(Image.open(self.dataset.samples[number].path))

    def proposals(self, num: int, seed: int) -> torch.Tensor:
        """Boxes ``(num, 4)`` xyxy in a photo."""
        generator = torch.Generator().manual_seed(seed)
        frame = torch.tensor([self.size[1], self.size[0]], dtype=torch.float32)
        first, second = (torch.rand(num, 2, generator=generator) * (frame - 16) for _ in range(2))
        return torch.cat([torch.minimum(first, second), torch.maximum(first, second) + 16], dim=1)

    def _draw(self, number: int) -> Sample:
        random = np.random.default_rng(number)
        height, width = self.size
        image = random.integers(90, 160, (height, width, 3), dtype=np.uint8)
        boxes, labels = [], sorted((3 * number + place) % self.num_classes for place in range(3))
        for label in labels:
            x, y = int(random.integers(0, width // 2)), int(random.integers(0, height // 2))
            w, h = int(random.integers(width // 5, width // 2)), int(random.integers(height // 5, height // 2))
            image[y : y + h, x : x + w] = np.array([10 * label, 255 - 12 * label, 128], dtype=np.uint8)
            boxes.append([x, y, x + w, y + h])
        path = self.folder / f"{number}.png"
        Image.fromarray(image).save(path)
        truth = Instances(torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels))
        return Sample(path.name, path, self.size, tuple(labels), truth, number + 1)


def clues_cnn(bench: Bench) -> Timed:
    """Class activation maps of a CNN over its scales and mirror images, on photos that are not kept."""
    from weaksam.stages.clues.cam import CamSource
    from weaksam.stages.clues.settings import ClueSettings

    network = "mobilenet_v2" if bench.toy else "resnet50"
    settings = ClueSettings(network=network, network_weights="none", long_side=64 if bench.toy else 448)
    source = CamSource(bench.context("resnet50"), settings)
    source.prepare(bench.folder / "clues", "0" * 64)
    features = source.features

    def call() -> None:
        features._kept.clear()  # each photo is read anew
        features._bytes_left = 0
        for image_id in bench.dataset.image_ids:
            source.map_classes(bench.dataset, image_id)

    return Timed(call, len(bench.dataset), f"CNN maps of {network}, long side {settings.long_side}")


def clues_weaktr(bench: Bench) -> Timed:
    """WeakTr's coarse, fine and cross-attention maps."""
    from weaksam.models.weaktr.build import build_weaktr
    from weaksam.models.weaktr.network import WeakTrSettings
    from weaksam.stages.clues.settings import ClueSettings
    from weaksam.stages.clues.weaktr import WeakTrSource

    shape = {"width": 32, "depth": 2} if bench.toy else {}
    settings = ClueSettings(source="weaktr", weaktr=WeakTrSettings(**shape), cross_layers=(1, 2 if bench.toy else 10))
    source = WeakTrSource(bench.context("mobilenet_v2"), settings, bench.dataset)
    source.model = build_weaktr(settings.weaktr, bench.num_classes).to(bench.device).eval().requires_grad_(False)

    def call() -> None:
        for image_id in bench.dataset.image_ids:
            source.map_classes(bench.dataset, image_id)

    return Timed(
        call, len(bench.dataset), f"WeakTr maps, width {settings.weaktr.width}, depth {source.model.shape.depth}"
    )


def random_segmenter(bench: Bench) -> Any:
    """segment-anything with random weights on the device, ViT-B unless of toy size."""
    from weaksam.sam.official.architecture import SamArchitecture, build_sam
    from weaksam.sam.official.segmenter import SegmentAnything

    sam = build_sam(SamArchitecture(**{**VIT_B, **(TOY_VIT if bench.toy else {})}))
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.02 * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in sam.state_dict().items()
    }
    sam.load_state_dict(weights)
    return SegmentAnything(sam.to(bench.device), "sam_vit_b", "0" * 64, precision=bench.precision)


def sam_encode(bench: Bench) -> Timed:
    """The image encoder, photos together."""
    segmenter = random_segmenter(bench)
    images = [bench.image(number) for number in range(len(bench.dataset))]
    return Timed(lambda: segmenter.encode_batch(images), len(images), f"encode, {segmenter.name}, {bench.precision}")


def sam_decode(bench: Bench) -> Timed:
    """Prompt with the dense grid, draw and measure all masks, and bring them over."""
    from weaksam.sam.batches import BatchLimit, predict_batches
    from weaksam.stages.proposals.candidates import MaskPile, candidates_of, masks_numbered
    from weaksam.stages.proposals.prompts import grid_prompts
    from weaksam.stages.proposals.settings import ProposalSettings

    segmenter, settings = random_segmenter(bench), ProposalSettings()
    embedding = segmenter.encode(bench.image())
    planned = grid_prompts(bench.size, 4 if bench.toy else 32)
    limit = BatchLimit(settings.batch_size)

    def call() -> None:
        pile, start = MaskPile(), 0
        for answer in predict_batches(segmenter, embedding, planned.prompts, limit):
            part = planned.between(start, start + len(answer))
            candidates_of(answer, masks_numbered(answer, settings.grid_masks), part.sources, pile)
            start += len(answer)

    return Timed(call, 1, f"decode {len(planned.prompts)} points, all masks drawn, batches of {limit.size}")


def sam_boxes(bench: Bench) -> Timed:
    """A mask for each box, as the instance masks of the last stage are made; the encoder included."""
    from weaksam.sam.box_masks import BoxMaskSettings, masks_of_boxes
    from weaksam.sam.prompts import Prompts

    segmenter, image = random_segmenter(bench), bench.image()
    boxes = bench.proposals(3 if bench.toy else 20, seed=0)
    what = f"box to mask, {len(boxes)} boxes, with the encoder"
    prompts, settings = Prompts(boxes=boxes), BoxMaskSettings()
    return Timed(lambda: masks_of_boxes(segmenter, segmenter.encode(image), prompts, settings), 1, what)


def region_tree(bench: Bench) -> Timed:
    """The segmenter without weights, which always runs on the CPU."""
    from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter

    segmenter, image = RegionTreeSegmenter(), bench.image()
    return Timed(lambda: segmenter.regions(segmenter.encode(image), 1000), 1, "region tree, on the CPU")


def loop_steps(model: Any, objectives: Any, batches: Iterator[Any]) -> Callable[[], None]:
    """A step of the training loop on the next batch; the losses' values stay on the device."""
    from weaksam.engine.loss_values import LossValues
    from weaksam.engine.training import ObjectiveStep
    from weaksam.engine.training_state import TrainingProgress

    values = LossValues(TrainingProgress(), "benchmark", 1)
    steps = [ObjectiveStep(model, objective, number, 1, values) for number, objective in enumerate(objectives)]
    model.train()

    def call() -> None:
        batch = next(batches)
        for step in steps:
            step.take(batch, 0)

    return call


def frozen_step(bench: Bench) -> Timed:
    """A step of the head on frozen features that are kept, with the default seeds."""
    from weaksam.models.wsod.targets import Seeds
    from weaksam.stages.wsod import WsodSettings
    from weaksam.stages.wsod.examples import TrainingExample, present_labels
    from weaksam.stages.wsod.frozen import FrozenDetector

    settings = WsodSettings(reduced=16, hidden=16, long_side=64) if bench.toy else WsodSettings()
    detector = FrozenDetector(bench.context("mobilenet_v2"), settings)
    detector.begin_training()
    examples = []
    for number, (sample, tags) in enumerate(zip(bench.dataset, bench.dataset.tag_matrix(), strict=True)):
        present = present_labels(tags)
        seeds = Seeds(torch.arange(len(present)), present, torch.ones(len(present)))
        boxes = bench.proposals(settings.num_proposals, seed=number)
        examples.append(TrainingExample(sample, boxes, tags, present, seeds))
        detector.photos.pooled(sample, boxes, settings.roi_size)
    call = loop_steps(detector.model, detector.objectives(), cycle(detector.batches(examples)))
    what = f"step on frozen features, {settings.batch_size} photos of {settings.num_proposals} proposals"
    return Timed(call, settings.batch_size, what)


def end_to_end_step(bench: Bench) -> Timed:
    """A step of MIST on VGG-16 with its adversary, the batch copied to the device."""
    from wsod_profile import stage_step

    if bench.toy:
        toy: Any = {"size": (64, 96), "proposals": 30, "photos": 2, "backbone": "mobilenet_v2", "hidden": 16}
        return Timed(stage_step(bench.device, precision=bench.precision, **toy), 2, "toy step of MIST")
    step = stage_step(bench.device, precision=bench.precision)
    return Timed(step, 8, f"step of MIST with DropBlock, VGG-16, 8 photos of 2,000 proposals, {bench.precision}")


def end_to_end_detect(bench: Bench) -> Timed:
    """Detect on a photo at every published scale and mirrored."""
    from weaksam.stages.wsod import WsodSettings
    from weaksam.stages.wsod.end_to_end import EndToEndDetector
    from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings

    num, hidden, roi_size = (30, 16, 3) if bench.toy else (2000, 4096, 7)
    sides: Any = {"test_short_sides": (64,)} if bench.toy else {}
    settings = WsodSettings(
        mode="end_to_end", seeds="mist", box_regression=True, background_column=True, num_proposals=num,
        hidden=hidden, roi_size=roi_size, end_to_end=EndToEndSettings(precision=bench.precision, **sides),
    )  # fmt: skip
    detector = EndToEndDetector(bench.context("vgg16"), settings)
    detector.begin_detecting()
    sample, boxes = bench.dataset.samples[0], bench.proposals(num, seed=0)
    what = f"detect, {2 * len(settings.end_to_end.test_short_sides)} views of {num} proposals, {bench.precision}"
    return Timed(lambda: detector.detect(sample, boxes), 1, what)
