"""Time the parts of an end-to-end MIST step on VGG-16, and count the training steps per second on a GPU.

    OMP_NUM_THREADS=1 python benchmarks/wsod_profile.py parts
    python benchmarks/wsod_profile.py parts --device cuda --precision bfloat16
    python benchmarks/wsod_profile.py speed --device cuda --photos 8 --precision bfloat16

Random weights, a random photo of the given size, 2,000 proposals that crowd round 40 places, 3 of 20 classes tagged;
the losses are those of the stage. ``parts`` cuts the graph between the parts, so that each one's forward and backward
pass are timed alone (CPU seconds of the process, or wall time after a synchronisation on a GPU), and prints markdown.
There the table of pairwise IoU is made at every step; in training a photo that is kept has it already.
``speed`` takes the stage's own step, copies to the device included, and stops with an error where it waits for it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from weaksam.engine.context import RunContext
from weaksam.engine.log import RunLog
from weaksam.engine.loss_values import LossValues
from weaksam.engine.mixed_precision import ScaledAdam, autocast
from weaksam.engine.training import ObjectiveStep
from weaksam.engine.training_state import TrainingProgress
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.wsod.network import WsodNetwork, pad_together, parameter_groups, wsod_trunk
from weaksam.models.wsod.targets import empty_seeds
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_batches import EndToEndBatch, PhotoView, ShownPhoto
from weaksam.stages.wsod.examples import TrainingExample, present_labels
from weaksam.stages.wsod.losses import photo_losses
from weaksam.stages.wsod.seeds.mist import MistSettings
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.devices import pinned

MIST = WsodSettings(
    mode="end_to_end",
    seeds=MistSettings(),
    box_regression=True,
    background_column=True,
    num_proposals=5000,
    hidden=4096,
    roi_size=7,
)
OUTSIDE_LIMIT = 0.10


@dataclass
class Clock:
    """Seconds by part."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as ``name``'s."""
        start = self.now()
        yield
        self.seconds[name] += self.now() - start

    def now(self) -> float:
        """CPU seconds of this process, or wall seconds once a GPU is done."""
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def make_example(size: tuple[int, int], num: int, classes: int, tags: int, seed: int) -> TrainingExample:
    """Proposals around 40 places of a photo of ``size`` (H, W), and its tags."""
    generator = torch.Generator().manual_seed(seed)
    frame = torch.tensor([size[1], size[0]], dtype=torch.float32)
    centre = (torch.rand(40, 2, generator=generator) * frame)[torch.randint(40, (num,), generator=generator)]
    centre = centre + 25 * torch.randn(num, 2, generator=generator)
    half = 10 + 90 * torch.rand(num, 2, generator=generator)
    boxes = torch.cat([centre - half, centre + half], dim=1)
    boxes = torch.minimum(boxes.clamp(min=0), torch.cat([frame, frame]))
    vector = torch.zeros(classes)
    vector[torch.randperm(classes, generator=generator)[:tags]] = 1.0
    sample = Sample(f"photo{seed}", Path(f"photo{seed}.jpg"), size, tuple(vector.nonzero()[:, 0].tolist()), None, seed)
    return TrainingExample(sample, boxes, vector, present_labels(vector), empty_seeds())


def make_network(options: argparse.Namespace, device: torch.device) -> WsodNetwork:
    """MIST's network of the recipes with random weights."""
    torch.manual_seed(0)
    trunk = wsod_trunk(BackboneSettings(name="vgg16", weights="none"), frozen_stages=2, last_relu=False)
    network = WsodNetwork(
        trunk,
        options.classes,
        drop_rate=None if options.no_drop_block else 0.3,
        box_regression=True,
        background_column=True,
        init_std=0.001,
    )
    return network.to(device).train()


def make_optimizers(network: WsodNetwork) -> list[ScaledAdam]:
    """The detector's and, if there is one, the adversary's."""
    decay = {"weight_decay": 5e-4, "bias_lr_factor": 2.0, "bias_weight_decay": 0.0, "branch_lr_factor": 1.0}
    optimizers = [ScaledAdam(parameter_groups(network, lr=1e-5, **decay), lr=1e-5)]
    if network.drop_block is not None:
        optimizers.append(ScaledAdam(network.drop_block.parameters(), lr=1e-5))
    return optimizers


def timed_step(
    network: WsodNetwork,
    optimizers: list[ScaledAdam],
    image: Tensor,
    example: TrainingExample,
    dtype: torch.dtype,
    clock: Clock,
) -> None:
    """One step of the detector and one of its adversary, each part's forward and backward on the clock."""
    with clock.part("pairwise IoU"):
        example = replace(example)  # forgets the table, which both passes share
        _ = example.overlaps
    with network.all_but_drop_block_learn():
        timed_pass(network, image, example, dtype, clock, sign=1.0)
    step(optimizers[0], network, clock)
    if network.drop_block is None:
        return
    with network.only_drop_block_learns():
        timed_pass(network, image, example, dtype, clock, sign=-0.01)
    step(optimizers[1], network, clock)


def step(optimizer: ScaledAdam, network: WsodNetwork, clock: Clock) -> None:
    """Move one optimiser's weights and forget all gradients."""
    with clock.part("optimiser"):
        optimizer.step()
        network.zero_grad(set_to_none=True)


def timed_pass(
    network: WsodNetwork, image: Tensor, example: TrainingExample, dtype: torch.dtype, clock: Clock, *, sign: float
) -> None:
    """Forward and backward, cut between the parts; what learns nothing has no backward."""
    parts: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("backbone", lambda images: network.trunk(images)["last"]),
        ("RoI pooling", lambda features: network.pool(features, [example.boxes])),
        ("Concrete DropBlock", network.drop_block or torch.nn.Identity()),
        ("fc6, fc7", lambda rois: network.hidden(rois.flatten(1))),
    ]
    value, computed = image, []
    for name, compute in parts:
        entry = value.detach().requires_grad_(value.requires_grad)
        with autocast(dtype, image.device), clock.part(name):
            value = compute(entry)
        computed.append((name, entry, value))
    hidden = value.detach().requires_grad_()
    with autocast(dtype, image.device), clock.part("streams and branches"):
        (output,) = network.streams(hidden)
    with clock.part("seeds, targets, losses"):
        total = sign * torch.stack(list(photo_losses(output, example, MIST).values())).sum()
    with clock.part("streams and branches"):
        total.backward()
    gradient = hidden.grad
    for name, entry, value in reversed(computed):
        if value.requires_grad:
            with clock.part(name):
                value.backward(gradient)
            gradient = entry.grad


def print_parts(options: argparse.Namespace) -> None:
    """The table of parts: seconds and shares of the median step."""
    device, dtype = torch.device(options.device), getattr(torch, options.precision)
    network = make_network(options, device)
    optimizers = make_optimizers(network)
    example = make_example(options.size, options.proposals, options.classes, options.tags, seed=0).on(device)
    image = pad_together([torch.randn(3, *options.size)]).to(device)
    clocks = [Clock(device) for _ in range(options.repeats + 1)]
    for clock in clocks:
        timed_step(network, optimizers, image, example, dtype, clock)
    seconds = {name: statistics.median(clock.seconds[name] for clock in clocks[1:]) for name in clocks[0].seconds}
    total = sum(seconds.values())
    print(
        f"{options.proposals} proposals, {options.size[0]} x {options.size[1]} pixels, {total:.2f} s a step of a photo"
    )
    print("| part | s | share |\n|---|---|---|")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {value:.3f} | {value / total:.1%} |")
    outside = {name: value / total for name, value in seconds.items() if name not in ("backbone", "fc6, fc7")}
    largest = max(outside, key=lambda name: outside[name])
    print(f"largest outside backbone and fc: {largest}, {outside[largest]:.1%} (limit {OUTSIDE_LIMIT:.0%})")


def stage_step(
    device: torch.device,
    *,
    precision: str = "auto",
    size: tuple[int, int] = (688, 917),
    proposals: int = 2000,
    classes: int = 20,
    tags: int = 3,
    photos: int = 8,
    drop_block: bool = True,
    backbone: str = "vgg16",
    hidden: int = 4096,
) -> Callable[[], None]:
    """A step of the stage's own detector in the training loop's own way, on one batch of random photos.

    The batch lies in pinned memory, as the stage's threads leave it; the losses' values, which training fetches once in
    twenty steps, are left on the device.
    """
    end_to_end = MIST.end_to_end.model_copy(
        update={"precision": precision, "drop_block": drop_block, "last_relu": False}
    )
    settings = MIST.model_copy(update={"end_to_end": end_to_end, "hidden": hidden, "num_proposals": proposals})
    train = Dataset("train", tuple(f"class{label}" for label in range(classes)), tuple(range(1, classes + 1)), ())
    weights = BackboneSettings(name=backbone, weights="none")
    torch.manual_seed(0)
    detector = EndToEndDetector(RunContext(Path(), 0, device, train, None, RunLog(), weights), settings)
    examples = tuple(make_example(size, proposals, classes, tags, seed) for seed in range(photos))
    views = [PhotoView(size[0], mirrored=number % 2 == 1) for number in range(photos)]
    shown = tuple(ShownPhoto(pinned(torch.randn(3, *size), device), (1.0, 1.0), view) for view in views)
    batch = EndToEndBatch(examples, tuple(view.mirrored for view in views), photos=shown)
    values = LossValues(TrainingProgress(), "speed", 1)
    steps = [
        ObjectiveStep(detector.model, objective, number, 1, values)
        for number, objective in enumerate(detector.objectives())
    ]
    detector.model.train()

    def one_step() -> None:
        for step in steps:
            step.take(batch, 0)

    return one_step


def print_speed(options: argparse.Namespace) -> None:
    """Steps a second of the stage's own step: the detector's and its adversary's, with nothing waiting for a GPU."""
    device = torch.device(options.device)
    one_step = stage_step(
        device,
        precision=options.precision,
        size=options.size,
        proposals=options.proposals,
        classes=options.classes,
        tags=options.tags,
        photos=options.photos,
        drop_block=not options.no_drop_block,
    )
    one_step()
    per_second = 1 / seconds_of(one_step, options.repeats, device)
    print(f"{per_second:.2f} steps/s of {options.photos} photos, {device}, {options.precision}")


def seconds_of(step: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Mean wall seconds of a step; on a GPU an error where one waits for the device."""
    clock = Clock(device)
    start = clock.now() if device.type == "cuda" else time.perf_counter()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    for _ in range(repeats):
        step()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")
    return ((clock.now() if device.type == "cuda" else time.perf_counter()) - start) / repeats


def main() -> None:
    """Print one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["parts", "speed"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--size", type=int, nargs=2, default=(688, 917), metavar=("H", "W"))
    parser.add_argument("--proposals", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--tags", type=int, default=3)
    parser.add_argument("--photos", type=int, default=8, help="photos of a step (speed)")
    parser.add_argument("--no-drop-block", action="store_true", help="MIST without its adversary")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.size = tuple(options.size)
    (print_parts if options.what == "parts" else print_speed)(options)


if __name__ == "__main__":
    main()
