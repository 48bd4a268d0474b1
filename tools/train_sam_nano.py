"""Train sam_nano, the bundled small segmenter, from scratch on rendered scenes only.

    python tools/train_sam_nano.py --steps 9000 --out work_dirs/sam_nano
    tools/dist_train.sh 4 tools/train_sam_nano.py --steps 9000 --out work_dirs/sam_nano

A second call with the same --out goes on where the first stopped, to the same bytes. Several processes share each
batch and train what one would. OUT/sam_nano.safetensors holds the averaged weights of the last measurement.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from nano_scenes import PromptBatch, SceneBatches, held_out
from torch import Tensor, nn

from weaksam.config import UserError, fingerprint_of
from weaksam.data.read_ahead import ReadAhead
from weaksam.engine.device import pick_device
from weaksam.engine.distributed import own_device, this_process, training_together
from weaksam.engine.log import RunLog
from weaksam.engine.mixed_precision import autocast, forward_dtype
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.weight_average import WeightAverage
from weaksam.models.backbones.shared_batch_norm import share_batch_norm
from weaksam.models.ranks import ranks
from weaksam.sam.nano.loss import nano_losses, pair_iou
from weaksam.sam.nano.model import Architecture, NanoSam
from weaksam.store.weights import save_weights
from weaksam.structures.devices import moved_together
from weaksam.terminal import say

LABEL = "sam_nano"


@torch.no_grad()
def evaluate(model: NanoSam, batches: Sequence[PromptBatch], device: torch.device) -> dict[str, float]:
    """Mean IoU of single points (best of three; the one the model trusts most) and of boxes, on the mask grid."""
    model.eval()
    figures: dict[str, list[Tensor]] = {"point_best": [], "point_trusted": [], "box": [], "iou_error": []}
    for batch in batches:
        images, index, coords, labels = moved_together(
            [batch.images, batch.image_index, batch.coords, batch.labels], device
        )
        logits, iou = (part.cpu() for part in model.prompted(model.image_encoder(images), index, coords, labels))
        used = torch.arange(3) < batch.num_targets[:, None]
        pairs = pair_iou(logits, batch.targets)  # (N, outputs, targets)
        trusted = (pairs * used[:, None]).amax(2).gather(1, iou.argmax(1, keepdim=True))[:, 0]
        has_target = batch.num_targets > 0
        single = has_target & (batch.labels[:, 0] == 1) & (batch.labels[:, 1] == -1)
        boxed = has_target & (batch.labels[:, 0] == 2) & (batch.labels[:, 2] == -1)
        figures["point_best"].append(pairs.amax(1)[single][used[single]])
        figures["point_trusted"].append(trusted[single])
        figures["box"].append(trusted[boxed])
        figures["iou_error"].append(((pairs * used[:, None]).amax(2) - iou).abs().mean(1)[has_target])
    return {name: round(float(torch.cat(values).mean()), 4) for name, values in figures.items()}


def lr_factor(step: int, total: int) -> float:
    """Warm up over the first hundredth of the steps, then half a cosine down to a fiftieth."""
    progress = step / total
    if progress < 0.01:
        return 0.05 + 95 * progress
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def export(path: Path, model: NanoSam, report: dict[str, float]) -> None:
    """Write weights in half precision, with the architecture and the held-out figures beside them."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_weights(path, state, {"architecture": asdict(model.spec), "held_out": report})


def build_optimizer(model: nn.Module, peak: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))


class NanoTraining:
    """The network, its batches and its losses; ``args`` are those of the command line, which give ``spec``, too."""

    def __init__(self, args: argparse.Namespace, device: torch.device, spec: Architecture | None = None) -> None:
        self.args, self.device, self.dtype = args, device, forward_dtype(args.precision, device)
        seed_everything(derive_seed(args.seed, LABEL))
        self.model = share_batch_norm(NanoSam(spec or Architecture(encoder=args.encoder)))
        self.model.to(device=device, memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.model, args.learning_rate)
        self.average = WeightAverage(self.optimizer, 0.998)
        self.scenes = SceneBatches(args.seed, args.scenes, args.images, args.prompts)

    def batches(self, epoch: int) -> Sequence[PromptBatch]:
        """The batches between two measurements."""
        steps = range(epoch * self.args.measure_steps, (epoch + 1) * self.args.measure_steps)
        return ReadAhead(steps, lambda step: self.scenes.of_step(self.model, step), 0)

    def objective(self) -> Objective:
        """SAM's losses and their optimizer."""
        return Objective(self.losses, self.optimizer, lr_factor, clip_norm=1.0)

    def losses(self, batch: PromptBatch) -> dict[str, Tensor]:
        """The losses of this rank's prompts, divided by the prompts with a target in the whole batch."""
        images, index, coords, labels, targets, num_targets = moved_together(
            [batch.images, batch.image_index, batch.coords, batch.labels, batch.targets, batch.num_targets],
            self.device,
        )
        with autocast(self.dtype, self.device):
            logits, iou = self.model.prompted(self.model.image_encoder(images), index, coords, labels)
        num_with_target = ranks().sum((num_targets > 0).sum())
        return nano_losses(logits, iou, targets, num_targets, num_with_target)

    def averaged(self) -> NanoSam:
        """A copy of the network with the moving average of its weights."""
        copied: NanoSam = copy.deepcopy(self.model)
        with torch.no_grad():
            for parameter, ours in zip(copied.parameters(), self.model.parameters(), strict=True):
                parameter.copy_(self.average.of(ours))
        return copied

    def run(self) -> None:
        """Train to the end, and measure and export the averaged weights on the way."""
        args, num_epochs = self.args, -(-self.args.steps // self.args.measure_steps)
        test = held_out(self.model, args.held_out) if ranks().first else []

        def measure(epoch: int) -> None:
            if ranks().first:
                averaged = self.averaged()
                step = min((epoch + 1) * args.measure_steps, args.steps)
                report = {"step": step, **evaluate(averaged, test, self.device)}
                say(json.dumps(report))
                export(args.out / "sam_nano.safetensors", averaged, report)
            if epoch + 1 == num_epochs:
                self.average.put_in()

        log = RunLog(args.out / "log.jsonl" if ranks().first else None)
        fingerprint = fingerprint_of({"tool": LABEL, **settings_of(args)})
        job = TrainingJob(args.out / "training", fingerprint, LABEL, args.seed, num_steps=args.steps, log=log)
        fit(
            self.model,
            [self.objective()],
            self.batches,
            job,
            num_steps_per_epoch=args.measure_steps,
            on_epoch_end=measure,
        )


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """What decides the trained weights."""
    return {name: value for name, value in vars(args).items() if name not in ("out", "device", "held_out", "threads")}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=("conv", "vit"), default="conv")
    parser.add_argument("--steps", type=int, default=9000, help="steps of the whole training")
    parser.add_argument("--measure-steps", type=int, default=300, help="steps between two measurements and exports")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/sam_nano"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="of the forward pass")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--images", type=int, default=8, help="scenes in a batch of all processes")
    parser.add_argument("--prompts", type=int, default=8, help="prompts on a scene")
    parser.add_argument("--scenes", type=int, default=400, help="scenes that the first batch is drawn from")
    parser.add_argument("--held-out", type=int, default=48, help="scenes to measure on")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    for name in ("steps", "measure_steps", "images", "prompts", "scenes", "held_out", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"wanted --{name.replace('_', '-')} of 1 or more, found {getattr(args, name)}")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Train until all steps are done; a second call with the same ``--out`` goes on from the saved state."""
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    launch = this_process()
    device = pick_device(own_device(args.device, launch))
    if device.type == "cuda" and launch.together:
        torch.cuda.set_device(device)
    args.out.mkdir(parents=True, exist_ok=True)
    with training_together(launch, args.out, fingerprint_of(settings_of(args))):
        NanoTraining(args, device).run()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        say(f"error: {error}", error=True)
        raise SystemExit(2) from None
