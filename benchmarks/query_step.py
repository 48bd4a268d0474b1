"""Time the parts of detectors with object queries on the CPU against transformers', in the same run.

    OMP_NUM_THREADS=1 python benchmarks/query_step.py attention
    OMP_NUM_THREADS=1 python benchmarks/query_step.py step [--profile]
    OMP_NUM_THREADS=1 python benchmarks/query_step.py full

``attention``: multi-scale deformable attention alone, forward and backward, at the sizes of VOC photos (500 x 375
pixels resized to a short side of 480 and of 800), for the encoder, whose queries are all cells, and the decoder. Both
get the same random inputs and must agree before either is timed. ``step``: a whole training step (losses, gradients,
clipping, AdamW) of DINO at its default size on two photos of 288 x 384 pixels with five boxes each, against
transformers' two-stage Deformable DETR of the same backbone (ResNet-18), sizes and number of queries (DINO's matching
and denoising ones together). ``full``: a step of the published size with ResNet-50 on one photo of 800 x 1333 pixels,
random weights, by its parts. CPU milliseconds of one thread, best and median of repeats in turn. Prints markdown.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from weaksam.engine.kept_memory import kept_memory
from weaksam.models.backbones.batch_norm import freeze_batch_norm
from weaksam.models.backbones.colours import IMAGENET
from weaksam.models.backbones.fast_convolutions import fuse_convolutions
from weaksam.models.backbones.features import FeatureExtractor, module_chain
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.dino import losses as dino_losses
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.dino.detector import Dino
from weaksam.models.detectors.dino.settings import DinoDetectorSettings, DinoShape
from weaksam.models.detectors.faster_rcnn import PhotoTransform
from weaksam.models.query.deformable_attention import deformable_attention

HEADS, DEPTH, POINTS = 8, 32, 4
STRIDES = (8, 16, 32, 64)
ATTENTION_CASES = {
    "encoder, 480 x 640": ((480, 640), None),
    "encoder, 800 x 1066": ((800, 1066), None),
    "decoder, 900 queries, 800 x 1066": ((800, 1066), 900),
    "decoder, 1100 queries, 800 x 1066": ((800, 1066), 1100),
}
"""Height and width of the photo, and the number of queries; none: every cell asks."""
STEP_SIZE, NUM_CLASSES = (288, 384), 20
PUBLISHED = {
    "embed_dims": 256,
    "ffn_dims": 2048,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "num_queries": 900,
}
BACKBONE, ENCODER, DECODER = "backbone and pyramid", "deformable attention of the encoder", "that of the decoder"
AMONG, HIDDEN = "attention among queries", "hidden layers (feed-forward)"
MATCHING, OPTIMIZER = "matching", "clipping and optimizer"


def times_in_turn(actions: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """CPU milliseconds of each of ``actions``, taken in turn, so that a change of load meets all alike."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for action, of_action in zip(actions, times, strict=True):
            start = time.process_time()
            action()
            of_action.append(1000 * (time.process_time() - start))
    return times


def attention_inputs(size: tuple[int, int], num_queries: int | None) -> tuple[list[tuple[int, int]], list[Tensor]]:
    """Sizes of the levels, and values, locations around each query's place, and weights, which ask for gradients."""
    torch.manual_seed(0)
    sizes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]
    places = [torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(1) for h, w in sizes]
    reference = torch.cat(places)[None] if num_queries is None else torch.rand(1, num_queries, 2)
    values = torch.randn(1, sum(h * w for h, w in sizes), HEADS, DEPTH)
    shape = (1, reference.shape[1], HEADS, len(sizes), POINTS)
    lengths = torch.tensor([[w, h] for h, w in sizes]).float()
    locations = reference[:, :, None, None, None] + 2 * torch.randn(*shape, 2) / lengths[:, None]
    weights = torch.randn(shape).flatten(3).softmax(-1).view(shape)
    return sizes, [values.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()]


def attention_row(name: str, repeats: int) -> str:
    """One line of the table of attention."""
    sizes, tensors = attention_inputs(*ATTENTION_CASES[name])
    values, locations, weights = tensors
    theirs_module = MultiScaleDeformableAttention()
    ways: list[Callable[[], Tensor]] = [
        lambda: deformable_attention(values, sizes, locations, weights),
        lambda: theirs_module(values, None, sizes, None, locations, weights, 64),
    ]
    ours, theirs = (way() for way in ways)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    grad = torch.randn_like(ours)
    gradients = [torch.autograd.grad(sums, (values, weights), grad) for sums in (ours, theirs)]
    for of_ours, of_theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(of_ours, of_theirs, rtol=1e-3, atol=1e-3)
    forward = times_in_turn(ways, repeats)
    both = times_in_turn([lambda way=way: torch.autograd.grad(way(), tensors, grad) for way in ways], repeats)  # type: ignore[misc]
    return f"| {name} | " + " | ".join([*compared(forward), *compared(both)]) + " |"


def compared(times: Sequence[Sequence[float]]) -> list[str]:
    """Cells: best and median of ours, of theirs, and ours as a share of theirs."""
    ours, theirs = times
    return [
        f"{min(ours):.0f} / {median(ours):.0f}",
        f"{min(theirs):.0f} / {median(theirs):.0f}",
        f"{min(ours) / min(theirs):.2f} / {median(ours) / median(theirs):.2f}",
    ]


def resnet18() -> FeatureExtractor:
    """ResNet-18 with random weights and frozen batch-norm, and its maps of stride 8, 16 and 32."""
    modules = [freeze_batch_norm(module) for module in module_chain(torchvision.models.resnet18(weights=None))]
    nn.ModuleList(modules[:5]).requires_grad_(False)  # stem and first stage, as transformers has it
    names = ("c3", "mid", "last")
    channels, strides = ({name: start * 2**n for n, name in enumerate(names)} for start in (128, 8))
    return FeatureExtractor(modules, {name: 5 + n for n, name in enumerate(names)}, channels, strides)


def small_dino(shape: DinoShape) -> Dino:
    """DINO on ResNet-18."""
    torch.manual_seed(0)
    model = Dino(resnet18(), shape, NUM_CLASSES, PhotoTransform(*STEP_SIZE, IMAGENET), 0.0, 100)
    return fuse_convolutions(model).to(memory_format=torch.channels_last).train()


def deformable_detr(shape: DinoShape, num_queries: int) -> nn.Module:
    """Transformers' detector of the same sizes."""
    stages = ["stage2", "stage3", "stage4"]
    body = ResNetConfig(layer_type="basic", depths=[2] * 4, hidden_sizes=[64, 128, 256, 512], out_features=stages)
    config = DeformableDetrConfig(
        backbone_config=body,
        d_model=shape.embed_dims,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.num_heads,
        decoder_attention_heads=shape.num_heads,
        encoder_ffn_dim=shape.ffn_dims,
        decoder_ffn_dim=shape.ffn_dims,
        num_feature_levels=shape.num_levels,
        num_queries=num_queries,
        two_stage_num_proposals=num_queries,
        two_stage=True,
        with_box_refine=True,
        auxiliary_loss=True,
        num_labels=NUM_CLASSES,
        dropout=0.0,
    )
    return DeformableDetrForObjectDetection(config).train()


def photos_and_targets(num: int, size: tuple[int, int], num_boxes: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Photos of noise and random boxes in pixels, labels from 1."""
    torch.manual_seed(1)
    height, width = size
    centre, side = 0.25 + torch.rand(num, num_boxes, 2) / 2, 0.1 + 0.3 * torch.rand(num, num_boxes, 2)
    boxes = torch.cat([centre - side / 2, centre + side / 2], dim=-1) * torch.tensor([width, height, width, height])
    labels = torch.randint(1, NUM_CLASSES + 1, (num, num_boxes))
    targets = [{"boxes": boxes[photo], "labels": labels[photo]} for photo in range(num)]
    return list(torch.rand(num, 3, height, width)), targets


def step_of(model: nn.Module, losses: Callable[[], Tensor]) -> Callable[[], None]:
    """One step of ``model`` on the sum of its losses."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-4, fused=True)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with kept_memory():
            losses().backward()
            nn.utils.clip_grad_norm_(trained, 0.1)
            optimizer.step()

    return step


def print_steps(repeats: int, profiled: bool) -> None:
    """Compare the training steps."""
    shape = DinoShape()
    photos, targets = photos_and_targets(2, STEP_SIZE, num_boxes=5)
    model = small_dino(shape)
    denoising = 2 * 5 * (shape.num_denoising // 5)
    theirs = deformable_detr(shape, shape.num_queries + denoising)
    sides = torch.tensor([STEP_SIZE[1], STEP_SIZE[0]] * 2)
    labels = [
        {"class_labels": of_photo["labels"] - 1, "boxes": torchvision.ops.box_convert(boxes, "xyxy", "cxcywh")}
        for of_photo in targets
        for boxes in [of_photo["boxes"] / sides]
    ]
    pixels = torch.stack(photos)
    steps = [
        step_of(model, lambda: torch.stack(list(model(photos, targets).values())).sum()),
        step_of(theirs, lambda: theirs(pixels, labels=labels).loss),
    ]
    for step in steps:
        step()
    if profiled:
        with profile(activities=[ProfilerActivity.CPU]) as by_operator:
            steps[0]()
        print(by_operator.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))
    print(f"{shape.num_queries} matching and {denoising} denoising queries; theirs {shape.num_queries + denoising}")
    print("| step | DINO, ms | Deformable DETR, ms | share |")
    print("|---|---|---|---|")
    print("| two photos of 288 x 384 | " + " | ".join(compared(times_in_turn(steps, repeats))) + " |", flush=True)


class PartTimes:
    """CPU seconds of the parts of a step, forward and backward."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.begun: dict[str, float] = {}

    def begin(self, part: str) -> None:
        """The part goes on from here."""
        self.begun[part] = time.process_time()

    def end(self, part: str) -> None:
        """The part ends, or pauses, here."""
        self.seconds[part] += time.process_time() - self.begun[part]

    def watch(self, part: str, module: nn.Module) -> None:
        """Time the module's forward and backward pass."""
        module.register_forward_pre_hook(lambda *_: self.begin(part))
        module.register_forward_hook(lambda *_: self.end(part))
        module.register_full_backward_pre_hook(lambda *_: self.begin(f"{part} "))
        module.register_full_backward_hook(lambda *_: self.end(f"{part} "))

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Time what is done inside."""
        self.begin(part)
        yield
        self.end(part)

    def total(self, part: str) -> float:
        """Forward and backward together."""
        return self.seconds[part] + self.seconds[f"{part} "]


def watch_parts(model: Dino, times: PartTimes) -> None:
    """Time backbone, transformer layers and matching of ``model``."""
    model.backbone.register_forward_pre_hook(lambda *_: times.begin(BACKBONE))
    model.backbone.register_forward_hook(lambda *_: times.end(BACKBONE))
    # Autograd reaches the backbone behind the encoder's first layer: what is left of the backward pass
    model.encoder.layers[0].register_full_backward_hook(lambda *_: times.begin(f"{BACKBONE} "))
    for part, name in ((ENCODER, "self_attn"), (HIDDEN, "ffn")):
        for layer in model.encoder.layers:
            times.watch(part, getattr(layer, name))
    for part, name in ((AMONG, "self_attn"), (DECODER, "cross_attn"), (HIDDEN, "ffn")):
        for layer in model.decoder.layers:
            times.watch(part, getattr(layer, name))
    match = dino_losses.matched_boxes

    def timed_match(*arguments: Any) -> Tensor:
        with times.timed(MATCHING):
            return match(*arguments)

    dino_losses.matched_boxes = timed_match


def print_full(repeats: int) -> None:
    """Time a step of the published size by its parts."""
    settings = DinoDetectorSettings(short_side=800, long_side=1333, trainable_layers=3, **PUBLISHED)
    model = build_dino(BackboneSettings(name="resnet50", weights="none"), settings, NUM_CLASSES).train()
    photos, targets = photos_and_targets(1, (800, 1333), num_boxes=7)
    times = PartTimes()
    watch_parts(model, times)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-4, fused=True)
    totals = []
    for _ in range(repeats):
        times.seconds.clear()
        start = time.process_time()
        model.zero_grad(set_to_none=True)
        loss = torch.stack(list(model(photos, targets).values())).sum()
        loss.backward()
        times.end(f"{BACKBONE} ")
        with times.timed(OPTIMIZER):
            nn.utils.clip_grad_norm_(trained, 0.1)
            optimizer.step()
        totals.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{min(totals):.1f} / {median(totals):.1f} s a step, peak memory of the process {peak:.1f} GiB; the last step:"
    )
    print("| part | seconds | share |")
    print("|---|---|---|")
    parts = {part: times.total(part) for part in (BACKBONE, ENCODER, DECODER, AMONG, HIDDEN, MATCHING, OPTIMIZER)}
    parts["all else"] = totals[-1] - sum(parts.values())
    for part, seconds in parts.items():
        print(f"| {part} | {seconds:.2f} | {seconds / totals[-1]:.1%} |")


def load() -> str:
    """The machine's load in the last minute and its cores."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("attention", "step", "full"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="print the operators of our step as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load before: {load()}")
    if options.part == "step":
        print_steps(options.repeats, options.profile)
    elif options.part == "full":
        print_full(options.repeats)
    else:
        print("| where | forward, ms | transformers | share | with backward, ms | transformers | share |")
        print("|---|---|---|---|---|---|---|")
        for name in ATTENTION_CASES:
            print(attention_row(name, options.repeats), flush=True)
    print(f"load after: {load()}; every cell is best / median of {options.repeats}")


if __name__ == "__main__":
    main()
