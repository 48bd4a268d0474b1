"""Train sam_nano, the bundled small segmenter, from scratch on rendered scenes only."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from torch import Tensor

from weaksam.sam.nano.loss import nano_losses, pair_iou
from weaksam.sam.nano.model import Architecture, NanoSam
from weaksam.scenes.part_prompts import PartPrompts, sample_prompts
from weaksam.scenes.part_scenes import render_part_scene
from weaksam.store.weights import load_state, read_metadata, save_weights

HELD_OUT = 1_000_000_000  # scene numbers from here on are never trained on


@dataclass(frozen=True)
class PromptBatch:
    """Images ``(B, 3, 256, 256)`` normalised, and N prompts: see ``PartPrompts``; ``image_index (N,)``."""

    images: Tensor
    image_index: Tensor
    coords: Tensor
    labels: Tensor
    targets: Tensor
    counts: Tensor


class AugmentedScene(NamedTuple):
    """A scene's image ``(H, W, 3)`` and levels ``(3, H, W)``, of which the first ``kept`` (h, w) are not padding."""

    image: np.ndarray
    levels: np.ndarray
    kept: tuple[int, int]


class ScenePool:
    """Scenes in memory, from which batches are drawn, and to which new ones are added as training goes."""

    def __init__(self, seed: int, start: int, capacity: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.next_scene = seed * 10_000_000 % HELD_OUT
        self.capacity = capacity
        self.scenes: list[tuple[np.ndarray, np.ndarray]] = []
        for _ in range(start):
            self.refresh()

    def refresh(self) -> None:
        """Render the next scene, in place of a random one once the pool is full."""
        scene = render_part_scene(self.next_scene)
        self.next_scene += 1
        if len(self.scenes) < self.capacity:
            self.scenes.append((scene.image, scene.levels))
        else:
            self.scenes[self.rng.integers(self.capacity)] = (scene.image, scene.levels)

    def batch(self, model: NanoSam, num_images: int, num_prompts: int) -> PromptBatch:
        """A random augmented batch."""
        chosen = [self.scenes[self.rng.integers(len(self.scenes))] for _ in range(num_images)]
        scenes = [augment(image, levels, self.rng) for image, levels in chosen]
        return collate(model, scenes, num_prompts, self.rng)


def augment(image: np.ndarray, levels: np.ndarray, rng: np.random.Generator) -> AugmentedScene:
    """Turn, mirror, recolour, and cut ``image`` so that a rest must be padded."""
    if rng.random() < 0.5:
        image, levels = image.transpose(1, 0, 2), levels.transpose(0, 2, 1)
    step_y, step_x = rng.choice([1, -1], 2)
    image, levels = image[::step_y, ::step_x], levels[:, ::step_y, ::step_x]
    gain = rng.uniform(0.8, 1.2, 3).astype(np.float32)
    image = np.clip(image[..., rng.permutation(3)] * gain, 0, 255)
    kept = list(image.shape[:2])
    if rng.random() < 0.5:
        kept[rng.integers(2)] = int(image.shape[0] * rng.uniform(0.5, 1.0))
    levels = levels.copy()
    levels[:, kept[0] :] = 0
    levels[:, :, kept[1] :] = 0
    return AugmentedScene(image, levels, (kept[0], kept[1]))


def collate(model: NanoSam, scenes: list[AugmentedScene], num_prompts: int, rng: np.random.Generator) -> PromptBatch:
    """Stack augmented scenes and draw ``num_prompts`` prompts on each."""
    images = [
        model.preprocess(
            torch.from_numpy(np.ascontiguousarray(image[: kept[0], : kept[1]], np.float32)).permute(2, 0, 1)
        )
        for image, _, kept in scenes
    ]
    prompts: list[PartPrompts] = [sample_prompts(levels, num_prompts, rng) for _, levels, _ in scenes]

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(of_scene, name) for of_scene in prompts]))

    return PromptBatch(
        images=torch.stack(images).contiguous(memory_format=torch.channels_last),
        image_index=torch.arange(len(scenes)).repeat_interleave(num_prompts),
        coords=column("coords"),
        labels=column("labels"),
        targets=column("targets"),
        counts=column("counts"),
    )


def held_out(model: NanoSam, num_scenes: int) -> list[PromptBatch]:
    """Fixed scenes that are never trained on."""
    rng = np.random.default_rng(0)
    scenes = [render_part_scene(HELD_OUT + i) for i in range(num_scenes)]
    plain = [AugmentedScene(scene.image, scene.levels, scene.size) for scene in scenes]
    return [collate(model, plain[i : i + 8], 16, rng) for i in range(0, num_scenes, 8)]


@torch.no_grad()
def evaluate(model: NanoSam, batches: list[PromptBatch]) -> dict[str, float]:
    """Mean IoU of single points (best of three; the one the model trusts most) and of boxes, on the mask grid."""
    model.eval()
    figures: dict[str, list[Tensor]] = {"point_best": [], "point_trusted": [], "box": [], "iou_error": []}
    for batch in batches:
        features = model.image_encoder(batch.images)
        logits, iou = model.prompted(features, batch.image_index, batch.coords, batch.labels)
        used = torch.arange(3) < batch.counts[:, None]
        pairs = pair_iou(logits, batch.targets)  # (N, outputs, targets)
        trusted = (pairs * used[:, None]).amax(2).gather(1, iou.argmax(1, keepdim=True))[:, 0]
        single = (batch.counts > 0) & (batch.labels[:, 0] == 1) & (batch.labels[:, 1] == -1)
        boxed = (batch.counts > 0) & (batch.labels[:, 0] == 2) & (batch.labels[:, 2] == -1)
        figures["point_best"].append(pairs.amax(1)[single][used[single]])
        figures["point_trusted"].append(trusted[single])
        figures["box"].append(trusted[boxed])
        figures["iou_error"].append(((pairs * used[:, None]).amax(2) - iou).abs().mean(1)[batch.counts > 0])
    return {name: round(float(torch.cat(values).mean()), 4) for name, values in figures.items()}


def learning_rate(progress: float, peak: float) -> float:
    """Warm up over the first hundredth, then half a cosine down to a fiftieth of ``peak``."""
    if progress < 0.01:
        return peak * (0.05 + 95 * progress)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def average_into(average: NanoSam, model: NanoSam, step: int, decay: float = 0.998) -> None:
    """Move the averaged weights toward the model's, faster at the beginning."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    averaged, current = average.state_dict(), model.state_dict()
    floating = [name for name in averaged if averaged[name].is_floating_point()]
    torch._foreach_lerp_([averaged[name] for name in floating], [current[name] for name in floating], share)


def save_checkpoint(
    path: Path, model: NanoSam, average: NanoSam, optimizer: torch.optim.Optimizer, **state: float
) -> None:
    """Write all that a resumed run needs as plain tensors."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.state_dict().items()}
    for number, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{k}": v for k, v in entry.items()}
    save_weights(path, tensors, {"architecture": asdict(model.spec), **state})


def load_checkpoint(path: Path, model: NanoSam, average: NanoSam, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint back; returns what was saved beside it (steps and seconds done)."""
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, value in load_state(path, "the training checkpoint").items():
        kind, rest = name.split("/", 1)
        groups[kind][rest] = value
    model.load_state_dict(groups["model"])
    average.load_state_dict(groups["average"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in groups["optimizer"].items():
        number, key = name.split("/")
        moments.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return read_metadata(path)


def export(path: Path, model: NanoSam, report: dict[str, float]) -> None:
    """Write the averaged weights in half precision, with the architecture and the held-out figures beside them."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_weights(path, state, {"architecture": asdict(model.spec), "held_out": report})


def train_step(model: NanoSam, batch: PromptBatch, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """One optimiser step in bfloat16; returns the losses."""
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        features = model.image_encoder(batch.images)
        logits, iou = model.prompted(features, batch.image_index, batch.coords, batch.labels)
    losses = nano_losses(logits, iou, batch.targets, batch.counts)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def progress_of(args: argparse.Namespace, step: int, seconds: float) -> float:
    """Share of the budget that is used up, by steps or by minutes."""
    return step / args.steps if args.steps else seconds / (60 * args.minutes)


def steps_until_done(args: argparse.Namespace, step: int, seconds: float) -> Iterator[tuple[int, float, float]]:
    """(step, share of the budget used, seconds) until the budget is spent."""
    clock = time.process_time if args.cpu_clock else time.monotonic
    start = clock() - seconds
    while (share := progress_of(args, step, clock() - start)) < 1:
        yield step, share, clock() - start
        step += 1


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", choices=("conv", "vit"), default="conv")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time, unless --steps is given")
    parser.add_argument("--cpu-clock", action="store_true", help="count the process's own CPU minutes")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/sam_nano"))
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--images", type=int, default=8, help="scenes in a batch")
    parser.add_argument("--prompts", type=int, default=8, help="prompts on a scene")
    parser.add_argument("--scenes", type=int, default=400, help="scenes rendered before the first step")
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def build_optimizer(model: NanoSam, peak: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)


def write_record(log: TextIO, record: dict[str, float], note: str = "") -> None:
    """Print ``record`` with a ``note`` and append it to the log."""
    print(json.dumps(record), note, flush=True)
    log.write(json.dumps(record) + "\n")
    log.flush()


class Trainer:
    """Trains ``model`` and its moving ``average``, and saves both in the folder ``args.out``."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.model = NanoSam(Architecture(encoder=args.encoder)).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model)
        self.optimizer = build_optimizer(self.model, args.learning_rate)
        self.checkpoint = args.out / "checkpoint.safetensors"
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            state = load_checkpoint(self.checkpoint, self.model, self.average, self.optimizer)
            self.step, self.seconds = state["step"], state["seconds"]
            print(f"going on from step {self.step}, {self.seconds / 60:.1f} min", flush=True)

    def run(self, log: TextIO) -> None:
        """Train until the budget is spent, with a record every 50 steps and a report at every save."""
        args, test = self.args, held_out(self.model, 48)
        pool = ScenePool(args.seed + 1 + self.step, args.scenes, capacity=6000)
        last_save = time.monotonic()
        running: dict[str, float] = {}
        for step, share, seconds in steps_until_done(args, self.step, self.seconds):
            self.step, self.seconds = step, seconds
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(share, args.learning_rate)
            pool.refresh()
            losses = train_step(self.model, pool.batch(self.model, args.images, args.prompts), self.optimizer)
            average_into(self.average, self.model, step)
            running = {name: 0.98 * running.get(name, loss) + 0.02 * loss for name, loss in losses.items()}
            if step % 50 == 0:
                left = seconds / max(share, 1e-6) - seconds
                record = self.position() | {name: round(loss, 4) for name, loss in running.items()}
                write_record(log, record, f"ETA {left / 60:.1f} min")
            if time.monotonic() - last_save > 60 * args.save_minutes:
                self.save(log, test)
                last_save = time.monotonic()
        self.save(log, test, final=True)

    def position(self) -> dict[str, float]:
        """Step and minutes, for the log."""
        return {"step": self.step, "minutes": round(self.seconds / 60, 2)}

    def save(self, log: TextIO, test: list[PromptBatch], **marks: bool) -> None:
        """Measure the averaged weights on held-out scenes, export them, and write the checkpoint."""
        report = self.position() | marks | evaluate(self.average, test)
        write_record(log, report)
        export(self.args.out / "sam_nano.safetensors", self.average, report)
        save_checkpoint(
            self.checkpoint, self.model, self.average, self.optimizer, step=self.step + 1, seconds=self.seconds
        )


def main() -> None:
    """Train until the budget is spent; a second call with the same ``--out`` goes on from its checkpoint."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "log.jsonl").open("a") as log:
        Trainer(args).run(log)


if __name__ == "__main__":
    main()
