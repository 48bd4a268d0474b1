"""Measure the panorama recipe on rendered streets: assistant, its rectification, ensemble, and students by target.

    python benchmarks/panorama.py OUT [--seeds 0 1 2] [--students assistant full ...] [--train 60] [--test 20]
                                  [--photos 240] [--set key=value ...]
    python benchmarks/panorama.py --speed [--height 400] [--width 2048] [--rounds 5]

Renders the data set of each seed, trains an assistant from scratch and the rest from it, and prints mIoU on the test
panoramas, mean and sample standard deviation over the seeds that have been measured; what is finished below OUT is not
made again. Students (--students): taught labels and logits of the assistant without any mask, before its rectification
(`plain`), of the rectified `assistant`, of the `ensemble` (pseudo maps), features as well (`full`), and `true` labels.
--speed times SegFormer-B0 of 19 classes on whole panoramas with one thread, and says which share of this machine's
matrix products that is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from retrain_variants import cell
from torch.utils.flop_counter import FlopCounterMode

from weaksam.config import load_settings
from weaksam.models.semantic.network import build_segformer
from weaksam.pipeline.panorama import run_panorama
from weaksam.recipes.panorama import PanoramaSettings
from weaksam.scenes.panoramas import StreetSettings, write_panoramas

STUDENTS: Mapping[str, tuple[str, ...]] = {
    "plain": ("rectification.steps=0", "student.targets=assistant", "student.feature_weight=0"),
    "assistant": ("student.targets=assistant", "student.feature_weight=0"),
    "ensemble": ("student.feature_weight=0",),
    "full": (),
    "true": ("student.targets=true",),
}
SETTINGS = (
    "assistant.variant=b0",
    "assistant.steps=900",
    "assistant.lr=0.0006",
    "rectification.steps=120",
    "rectification.lr=0.0001",
    "student.start=assistant",
    "student.steps=400",
    "student.batch_size=1",
    "student.lr=0.0003",
    "student.warmup_steps=50",
    "measure_ensemble=true",
    "threads=1",
)
"""The assistant learns from scratch, at a rate higher than SegFormer's own; a student starts where the assistant does,
since 400 steps from scratch would measure how little it was trained. Chosen on streets of another seed."""
KEPT = ("student", "student.safetensors", "metrics.json")
"""What differs between the students of a seed; all else below OUT is theirs together."""


def measured(out: Path, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """The mIoU of everything that a seed trains, by name."""
    folder = out / f"seed{seed}"
    if not (folder / "panorama.yaml").is_file():
        write_panoramas(folder, StreetSettings(), options.train, options.test, options.photos, seed)
    figures: dict[str, float] = {}
    for name in options.students:
        done = folder / "students" / name
        if not (done / "metrics.json").is_file():
            given = [f"seed={seed}", *SETTINGS, *STUDENTS[name], *options.set]
            run_panorama(load_settings(PanoramaSettings, folder / "panorama.yaml", given))
            done.mkdir(parents=True, exist_ok=True)
            for kept in KEPT:
                shutil.move(folder / "run" / kept, done / kept)
        written: dict[str, Any] = json.loads((done / "metrics.json").read_text(encoding="utf-8"))
        for key, value in written.items():
            if isinstance(value, dict) and "mean_iou" in value:
                label = f"student, {name}" if key == "student" else key.replace("_", " ")
                figures.setdefault(label, value["mean_iou"])
    return figures


def speed(size: tuple[int, int], rounds: int) -> str:
    """Whole panoramas a second of SegFormer-B0 with one thread, and the share of the machine's matrix products."""
    torch.set_num_threads(1)
    network = build_segformer("b0", 19, seed=0).eval()
    photo = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            network(photo)
        taken = min(_seconds(lambda: network(photo)) for _ in range(rounds))
        square = torch.rand(1024, 1024)
        product = min(_seconds(lambda: square @ square) for _ in range(rounds))
    limit = 2 * 1024**3 / product
    done = counter.get_total_flops() / taken
    share = f"{done / 1e9:.0f} of {limit / 1e9:.0f} GFLOP/s of a product of 1024 x 1024 matrices ({done / limit:.0%})"
    return (
        f"SegFormer-B0 on {size[0]} x {size[1]}: {taken:.2f} processor seconds, {1 / taken:.2f} panoramas a second on "
        f"a core; {share}"
    )


def _seconds(function: Any) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--train", type=int, default=60)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--photos", type=int, default=240)
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="further settings")
    parser.add_argument("--speed", action="store_true", help="time the student instead")
    parser.add_argument("--height", type=int, default=400)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.speed:
        print(speed((options.height, options.width), options.rounds))
        return
    if options.out is None:
        parser.error("wanted OUT, a folder for what is made, or --speed")
    figures = [measured(options.out, seed, options) for seed in options.seeds]
    print("| what | seeds | mIoU |\n|---|---|---|")
    for name in dict.fromkeys(name for of_seed in figures for name in of_seed):
        values = [of_seed[name] for of_seed in figures if name in of_seed]
        print(f"| {name} | {len(values)} | {cell(values)} |")


if __name__ == "__main__":
    main()
