"""Run one config with several seeds and print the mean and spread of every stage's quality.

    python benchmarks/quality.py benchmarks/configs/fruit3.yaml --seeds 0 1 2 --out work_dirs/fruit3 [key=value ...]

Each seed is an ordinary run in its own folder, so an interrupted benchmark resumes; the photos' clues and proposals
do not depend on the seed and are copied from the first. Spread is the sample standard deviation.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from weaksam.evaluation.voc import MASK_IOUS

THREE = (("AP50", ("mean", "0.5")), ("AP75", ("mean", "0.75")), ("AP .5:.95", ("average",)))
"""The average precisions that every table shows side by side."""
FIGURES = (
    ("clues", "peaks inside a true box", ("train_peaks", "inside")),
    ("wsod", "train CorLoc", ("train_corloc", "mean")),
    *(("wsod", f"test {name}", ("test_boxes", *path)) for name, path in THREE),
    ("wsod_ceiling", "train CorLoc", ("train_corloc", "mean")),
    *(("wsod_ceiling", f"test {name}", ("test_boxes", *path)) for name, path in THREE),
    ("pseudo_gt", "precision", ("train_chosen", "precision")),
    ("pseudo_gt", "recall", ("train_chosen", "recall")),
    ("pseudo_gt", "number", ("train_chosen", "number")),
    ("pseudo_gt", "top-1 precision", ("train_top1", "precision")),
    ("pseudo_gt", "top-1 recall", ("train_top1", "recall")),
    ("pseudo_gt", "top-1 number", ("train_top1", "number")),
    *(("retrain", f"test {name}", ("test_boxes", *path)) for name, path in THREE),
    *(("retrain", f"test {name} of the network alone", ("test_network_boxes", *path)) for name, path in THREE),
    *(("retrain_ceiling", f"test {name}", ("test_boxes", *path)) for name, path in THREE),
    *(("wsis", f"test box {name}", ("test_boxes", *path)) for name, path in THREE),
    ("wsis", "mean IoU of the pseudo masks", ("train_mask_iou", "mask_iou")),
    *(("wsis", f"test mask AP{100 * iou:.0f}", ("test_masks", "mean", f"{iou:g}")) for iou in MASK_IOUS),
    ("wsis", "test mask AP .5:.95", ("test_masks", "average")),
    ("wsis", "test boundary AP .5:.95", ("test_coco_boundaries", "ap")),
    ("wsis", "test PQ", ("test_pq", "pq")),
    ("wsis", "test mIoU", ("test_miou", "mean")),
    *(("wsis_ceiling", f"test mask {name}", ("test_masks", *path)) for name, path in THREE),
)
"""(stage, what, path into the stage's figures in metrics.json)."""


def figure(metrics: dict[str, Any], stage: str, path: tuple[str, ...]) -> float | None:
    """One figure of a run, or None where the run did not measure it."""
    found: Any = next((row["figures"] for row in metrics["stages"] if row["stage"] == stage), None)
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found)


def seconds(metrics: dict[str, Any], stage: str) -> float | None:
    """Seconds that one stage of a run took."""
    return next((row["seconds"] for row in metrics["stages"] if row["stage"] == stage), None)


def table(runs: list[dict[str, Any]]) -> str:
    """A markdown table of every figure the runs hold: one column per run, then mean and spread."""
    rows = [(f"{stage}: {what}", [figure(run, stage, path) for run in runs]) for stage, what, path in FIGURES]
    stages = dict.fromkeys(row["stage"] for run in runs for row in run["stages"])
    rows += [(f"{stage}: seconds", [seconds(run, stage) for run in runs]) for stage in stages]
    rows += [("peak memory, MiB", [float(run["peak_memory_mib"]) for run in runs])]
    names = [run["name"] for run in runs]
    lines = ["| figure | " + " | ".join(names) + " | mean | spread |", "|---|" + "---|" * (len(runs) + 2)]
    for name, values in rows:
        known = [value for value in values if value is not None]
        if known:
            spread = statistics.stdev(known) if len(known) > 1 else 0.0
            cells = ["" if value is None else shown(value) for value in values]
            lines.append(f"| {name} | " + " | ".join([*cells, shown(statistics.mean(known)), shown(spread)]) + " |")
    return "\n".join(lines)


def shown(value: float) -> str:
    """Three decimals for shares, whole numbers otherwise."""
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.0f}"


def run_seed(config: str, out: Path, seed: int, first: Path, until: str | None, overrides: list[str]) -> None:
    """Run or resume one seed, to the stage ``until`` or to the end."""
    if out != first and not out.exists():
        for stage in ("clues", "proposals"):
            shutil.copytree(first / stage, out / stage)
    command = [sys.executable, "-m", "weaksam.cli", "run", config, f"out={out}", f"seed={seed}", *overrides]
    command += [] if until is None else ["--until", until]
    subprocess.run(command, check=True)


def main() -> None:
    """Run every seed one after the other, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="a folder per seed is made below it")
    parser.add_argument("--until", help="last stage to run, such as wsod; all by default")
    parser.add_argument("--table-only", action="store_true", help="only print the table of runs that are there")
    arguments = parser.parse_intermixed_args()
    folders = [arguments.out / f"seed{seed}" for seed in arguments.seeds]
    for seed, folder in zip(arguments.seeds, folders, strict=True):
        if not arguments.table_only:
            run_seed(arguments.config, folder, seed, folders[0], arguments.until, arguments.overrides)
    print(table([json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in folders]))


if __name__ == "__main__":
    main()
