"""Measure Mask2Former on a CPU: whether it learns 16 scenes by heart, and what a full-size training step takes.

    OMP_NUM_THREADS=1 python benchmarks/mask2former.py overfit OUT --weights FILE [--settings key=value ...]
    OMP_NUM_THREADS=1 python benchmarks/mask2former.py step [--size 800 1333] [--objects 8] [--steps 2]
    OMP_NUM_THREADS=1 python benchmarks/mask2former.py convolutions [--size 800 1344] [--repeats 3]

``overfit`` renders 16 scenes in OUT and trains the wsis stage's Mask2Former on their true masks, and prints the mask AP
on the same scenes; ``--settings`` are those of the stage. ``step`` times training steps of the published size
with ResNet-50 and random weights on one random photo, divided among the parts of the network by a profile.
``convolutions`` times those of the pixel decoder alone, forward and backward, with every cell of the finest map
projected, as published, and without, in turn.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from weaksam.config import load_settings
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.mask2former import mask2former_objective
from weaksam.engine.kept_memory import kept_memory
from weaksam.engine.log import RunLog
from weaksam.evaluation.coco import coco_ap
from weaksam.models.backbones.clamping import NO_BOUNDS
from weaksam.models.backbones.fast_convolutions import FastConv2d
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.mask2former.decoder import UnusedProjection, mask_decoder
from weaksam.models.detectors.mask2former.losses import (
    PhotoObjects,
    QueryPredictions,
    class_loss,
    mask_losses,
    match_photos,
)
from weaksam.models.detectors.mask2former.network import Mask2Former, build_mask2former
from weaksam.models.detectors.mask2former.points import draw_loss_points, num_uncertain
from weaksam.models.detectors.mask2former.settings import Mask2FormerSettings, MaskLossSettings
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages import wsis

SCENES = SceneSettings(size=128, num_classes=3, max_objects=3, max_distractors=1, max_clutter=15, min_radius=0.18)
OVERFIT = ["short_side=128", "long_side=128", "num_epochs=70", "batch_size=4", "smallest_scale=1", "largest_scale=1"]
OVERFIT += ["colour_jitter=0", "flip=false", "weight_decay=0", "trainable_layers=6", "backbone_lr_factor=1", "lr=5e-4"]
CHANNELS = [256, 512, 1024, 2048]
"""Depth of ResNet-50's maps of stride 4 to 32."""
PUBLISHED = wsis.Mask2FormerWsisSettings(
    channels=256, encoder_layers=6, decoder_layers=9, encoder_width=1024, decoder_width=2048, num_queries=100,
    trainable_layers=6, losses=MaskLossSettings(num_points=12544),
)  # fmt: skip


def overfit(out: Path, weights: str, overrides: Sequence[str]) -> None:
    """Train on 16 scenes until they are known by heart, and print the mask AP on them."""
    paths = write_dataset(out / "scenes", SCENES, 16, 0, seed=0)
    split = SplitSettings(images=paths["train"], tags=paths["tags_train"], truth=paths["instances_train"])
    dataset = load_dataset(split, name="train")
    backbone = BackboneSettings(name="mobilenet_v2", weights=weights)
    context = RunContext(out, 0, torch.device("cpu"), dataset, dataset, RunLog(out / "log.jsonl"), backbone)
    settings = load_settings(wsis.Mask2FormerWsisSettings, None, [*OVERFIT, *overrides])
    start = time.monotonic()
    result = wsis.run(context, settings, RegionTreeSegmenter(), dataset.truths)
    seconds = time.monotonic() - start
    ap = coco_ap(dataset.truths, result.detections("test"), len(dataset.classes), geometry="masks")
    print(f"{ap}\n{seconds:.0f} s ({time.process_time():.0f} CPU seconds), at most {peak_gib():.2f} GiB of memory")


def peak_gib() -> float:
    """The most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Parts:
    """CPU seconds by part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._at = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as ``name``'s."""
        start = time.process_time()
        yield
        self.seconds[name] += time.process_time() - start

    def between(self, first: torch.Tensor, last: torch.Tensor, name: str, inside: str) -> None:
        """Count the backward pass from ``last`` to ``first``, a part of ``inside``, as ``name``'s."""

        def begin(gradient: torch.Tensor) -> None:
            self._at = time.process_time()

        def end(gradient: torch.Tensor) -> None:
            spent = time.process_time() - self._at
            self.seconds[name] += spent
            self.seconds[inside] -= spent

        last.register_hook(begin)
        first.register_hook(end)


def leaves(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The same values, from which a gradient goes no further."""
    return [tensor.detach().requires_grad_() for tensor in tensors]


def take_step(model: Mask2Former, optimizer: torch.optim.Optimizer, size: tuple[int, int], objects: int) -> Parts:
    """One training step on a random photo of ``size`` (h, w), the graph cut between its parts."""
    parts, decoder = Parts(), model.decoder
    image = torch.rand(3, *size)
    masks = torch.zeros(objects, *size)
    for number in range(objects):  # rectangles of a ninth of the photo
        top, left = (number % 3) * size[0] // 3, (number // 3 % 3) * size[1] // 3
        masks[number, top : top + size[0] // 3, left : left + size[1] // 3] = 1
    truth = [PhotoObjects(torch.arange(objects) % 20, masks, size)]
    optimizer.zero_grad()
    with parts.part("backbone"):
        batch = model._batch([image], (0, 0))
        maps = model.backbone(batch)
    cut_maps = leaves(maps)
    watched: list[torch.Tensor] = []

    def encoder_forward(_module: nn.Module, _: Any, arguments: dict[str, Any]) -> None:
        watched.append(arguments["inputs_embeds"])
        parts.seconds["encoder"] -= time.process_time()

    def encoder_done(_module: nn.Module, _arguments: Any, output: Any) -> None:
        parts.seconds["encoder"] += time.process_time()
        watched.append(output.last_hidden_state)

    encoder = decoder.pixel_decoder.encoder
    hooks = [
        encoder.register_forward_pre_hook(encoder_forward, with_kwargs=True),
        encoder.register_forward_hook(encoder_done),
    ]
    with parts.part("convolutions of the pixel decoder"):
        pixels = decoder.pixel_decoder(cut_maps)
    parts.seconds["convolutions of the pixel decoder"] -= parts.seconds["encoder"]
    parts.between(*watched, "encoder", "convolutions of the pixel decoder")
    for hook in hooks:
        hook.remove()
    levels, features = leaves(pixels.multi_scale_features), leaves([pixels.mask_features])[0]
    with parts.part("decoder"):
        decoded = decoder.transformer_module(multi_scale_features=levels, mask_features=features)
        hidden = torch.stack(decoded.intermediate_hidden_states).transpose(1, 2)
        outputs = decoder.class_predictor(hidden), torch.stack(decoded.masks_queries_logits)
    classes, embeddings = leaves(outputs)
    told = QueryPredictions(classes, embeddings[..., :-1], features, batch.shape[-2:], embeddings[..., -1])
    settings = PUBLISHED.losses
    with parts.part("matching"):
        query_of, in_ignored = match_photos(told, truth, torch.rand(1, settings.num_points, 2), settings)
    with parts.part("losses"):
        drawn = draw_loss_points(query_of[0].numel(), settings, features.device)
        losses = mask_losses(told, 0, truth[0], query_of[0], drawn, num_uncertain(settings))
        total = settings.class_weight * class_loss(classes, truth, query_of, in_ignored, settings.no_object_weight)
        (total + 5 * sum(loss.sum() for loss in losses) / objects).backward()
    with parts.part("decoder"):
        torch.autograd.backward(outputs, [classes.grad, embeddings.grad])
    with parts.part("convolutions of the pixel decoder"):
        torch.autograd.backward(
            [*pixels.multi_scale_features, pixels.mask_features], [*(level.grad for level in levels), features.grad]
        )
    with parts.part("backbone"):
        torch.autograd.backward(maps, [level.grad for level in cut_maps])
    with parts.part("clipping and AdamW"):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    return parts


def profile(size: tuple[int, int], objects: int, num_steps: int) -> None:
    """Print the CPU seconds of each part of a step, the mean over steps after the first, and the memory."""
    torch.manual_seed(0)
    model = build_mask2former(BackboneSettings(name="resnet50", weights="none"), PUBLISHED, 20).train()
    optimizer = mask2former_objective(model, PUBLISHED, torch.device("cpu")).optimizer
    with kept_memory():
        steps = [take_step(model, optimizer, size, objects) for _ in range(num_steps + 1)][1:]
    mean = {name: sum(step.seconds[name] for step in steps) / num_steps for name in steps[0].seconds}
    total = sum(mean.values())
    print("| part | CPU seconds | share |\n|---|---|---|")
    for name, seconds in sorted(mean.items(), key=lambda item: -item[1]):
        print(f"| {name} | {seconds:.2f} | {seconds / total:.0%} |")
    print(f"| all | {total:.2f} | |\n\nAt most {peak_gib():.2f} GiB of memory.")


def time_convolutions(size: tuple[int, int], repeats: int) -> None:
    """Print the CPU seconds of the pixel decoder without its encoder, best and median, for a photo of ``size`` (h, w).

    The sides are multiples of 32. One pass before is not counted.
    """
    torch.manual_seed(0)
    shape = Mask2FormerSettings(channels=256, encoder_layers=1, decoder_layers=1, num_queries=1)
    decoder = mask_decoder(shape, CHANNELS, 20).to(memory_format=torch.channels_last).train().pixel_decoder
    decoder.encoder.forward = lambda inputs_embeds, **_: BaseModelOutput(last_hidden_state=inputs_embeds)
    projection = decoder.mask_projection
    projection.norm, projection.bounds = (), NO_BOUNDS  # what `FastConv2d` wants to know
    drawn = [torch.randn(1, depth, size[0] >> level, size[1] >> level) for level, depth in enumerate(CHANNELS, start=2)]
    maps = [values.to(memory_format=torch.channels_last).requires_grad_() for values in drawn]
    seconds: dict[type[nn.Module], list[float]] = {FastConv2d: [], UnusedProjection: []}
    with kept_memory():
        for _ in range(repeats + 1):
            for kind, passes in seconds.items():
                projection.__class__ = kind
                start = time.process_time()
                pixels = decoder(maps)
                outputs = [*pixels.multi_scale_features, pixels.mask_features]
                torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
                passes.append(time.process_time() - start)
    for kind, passes in seconds.items():
        print(f"{kind.__name__}: {min(passes[1:]):.3f} / {median(passes[1:]):.3f} CPU seconds, best / median")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    by_heart = commands.add_parser("overfit")
    by_heart.add_argument("out", type=Path)
    by_heart.add_argument("--weights", default="imagenet", help="MobileNetV2's: imagenet, none or a file")
    by_heart.add_argument("--settings", nargs="*", default=[], help="key=value of the stage")
    step = commands.add_parser("step")
    step.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    step.add_argument("--objects", type=int, default=8)
    step.add_argument("--steps", type=int, default=2)
    alone = commands.add_parser("convolutions")
    alone.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    alone.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "overfit":
        overfit(given.out, given.weights, given.settings)
    elif given.command == "convolutions":
        time_convolutions(tuple(given.size), given.repeats)
    else:
        profile(tuple(given.size), given.objects, given.steps)
