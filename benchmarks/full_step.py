"""Time a training step of the published recipe's Faster or Mask R-CNN on one photo of 800 x 1,333 pixels.

    OMP_NUM_THREADS=1 python benchmarks/full_step.py faster|mask [--plain] [--steps 3] [--recipe RECIPE.yaml]

ResNet-50 with a full pyramid and the recipe's sizes, 20 classes, **random weights** and a photo of noise with eight
boxes: losses, gradients and the optimizer's step, as the stage takes it. ``--plain``: torchvision's modules instead of
those that compute the same in less time. Prints a row of markdown: CPU and wall seconds of a step, best and median (one
step before is not counted), and the peak memory of the process, with the steps and before them.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from weaksam.config import load_settings
from weaksam.engine.detectors.batches import DetectorBatch
from weaksam.engine.detectors.training import detector_objective
from weaksam.engine.kept_memory import kept_memory
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, target_of
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.pipeline.settings import RunSettings
from weaksam.structures.instances import Instances

CPU = torch.device("cpu")
SIZE = (800, 1333)
NUM_CLASSES = 20
NUM_BOXES = 8


def noise_batch(with_masks: bool) -> DetectorBatch:
    """One photo of noise with boxes of 100 to 400 pixels a side, which are their own masks."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(NUM_BOXES, 2, generator=generator) * torch.tensor([900.0, 380.0])
    side = 100 + 300 * torch.rand(NUM_BOXES, 2, generator=generator)
    boxes = torch.cat([corner, corner + side], dim=1).round()
    masks = torch.zeros(NUM_BOXES, *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    objects = Instances(boxes, torch.arange(NUM_BOXES) % NUM_CLASSES)
    image = torch.rand(3, *SIZE, generator=generator)
    return DetectorBatch(("noise",), [image], [target_of(objects, masks if with_masks else None)])


def peak_gib() -> float:
    """Peak memory of the process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", choices=("faster", "mask"))
    parser.add_argument("--plain", action="store_true", help="torchvision's modules")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--recipe", type=Path, default=Path("configs/voc07_mist.yaml"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = load_settings(RunSettings, options.recipe)
    settings: Any = recipe.wsis if options.detector == "mask" else recipe.retrain
    backbone = settings.backbone.model_copy(update={"weights": "none"})
    build: Any = build_mask_rcnn if options.detector == "mask" else build_faster_rcnn
    model = build(backbone, settings, NUM_CLASSES, plain=options.plain).train()
    objective = detector_objective(model, settings, CPU)
    batch = noise_batch(options.detector == "mask")
    before = peak_gib()
    times = []
    with kept_memory():
        for _ in range(options.steps + 1):
            start = time.process_time(), time.perf_counter()
            model.zero_grad(set_to_none=True)
            losses: Any = objective.losses(batch)
            torch.stack([value for name, value in losses.items() if name.startswith("loss")]).sum().backward()
            for group in objective.optimizer.param_groups:
                group["lr"] = 1e-9  # random weights and the recipe's rate would end in infinity
            objective.optimizer.step()
            times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    cpu, wall = zip(*times[1:], strict=True)
    load = f"{os.getloadavg()[0]:.1f}"
    print(
        "| step | CPU seconds, best / median | wall seconds, best / median | peak GiB | before the step, GiB | load |"
    )
    print("|---|---|---|---|---|---|")
    name = f"{options.detector}{', plain' if options.plain else ''}"
    seconds = [f"{min(taken):.1f} / {median(taken):.1f}" for taken in (cpu, wall)]
    print(f"| {name} | {seconds[0]} | {seconds[1]} | {peak_gib():.2f} | {before:.2f} | {load} |")
    print(f"losses: {', '.join(f'{key} {float(value.detach()):.3f}' for key, value in losses.items())}")


if __name__ == "__main__":
    main()
