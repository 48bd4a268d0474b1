"""Measure what further processes bring on one machine, and compute a plan for many GPUs on paper.

    python benchmarks/scaling.py proposals [--photos 128] [--size 384] [--grid 16] [--rounds 2]   # 1 and 2 workers
    python benchmarks/scaling.py ray [--photos 128] [--size 384] [--grid 16] [--rounds 2]         # one Ray actor, none
    python benchmarks/scaling.py ranks [--steps 12] [--rounds 2]                      # retraining on 1 and 2 ranks
    python benchmarks/scaling.py plan                                                 # on paper; nothing of it is run

``proposals`` and ``ray`` run the proposal stage with sam_nano's grid (``--grid`` points a side) on rendered scenes of
``--size`` pixels, every process with one thread. Two workers are timed from when both have opened the run; CPU seconds
are of the stage alone. **A photo's seconds** are those between the first and the last part of a store over the photos
of the parts between: what does not count is the start of actor, run and models. **Balance** is the CPU seconds of one
worker over those of the busier of two: what the clock would show if each had a core of its own. ``ranks`` trains the
default Faster R-CNN (sam_nano's backbone, photos of 256 pixels, 4 a step) over gloo; communication is the wall time
inside torch.distributed, which includes waiting for the other rank. Prints markdown; see docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook

from weaksam.config import load_settings
from weaksam.engine.distributed import Launch, training_together
from weaksam.engine.helper_processes import helped_by
from weaksam.pipeline.owning import owning
from weaksam.pipeline.plan import stage_named
from weaksam.pipeline.ray.dispatch import ray_actors
from weaksam.pipeline.ray.settings import ActorSettings
from weaksam.pipeline.running import work
from weaksam.pipeline.settings import RunSettings, without_tags
from weaksam.pipeline.state import Run, open_run
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages.retrain import run as retrain
from weaksam.store.part_helpers import filled_by
from weaksam.terminal import silence

TICKS = os.sysconf("SC_CLK_TCK")


def settings_for(scenes: Path, out: Path, *overrides: str) -> RunSettings:
    """A run on the scenes with sam_nano everywhere, on one thread of the CPU."""
    data = {"images": "train", "tags": "tags_train.json", "truth": "instances_train.json"}
    lines = [f"data.train.{key}={scenes / name}" for key, name in data.items()]
    lines += ["segmenter.family=nano", "backbone.name=sam_nano", "threads=1", "device=cpu", f"out={out}", *overrides]
    return load_settings(RunSettings, None, lines)


# Proposals


def time_stage(kind: str, scenes: Path, out: Path, grid: int) -> dict[str, float]:
    """Run the proposal stage once in this process and helpers; seconds by the clock and CPU seconds of each process."""
    overrides = (f"workers={kind if kind.isdecimal() else 1}", f"proposals.grid_side={grid}")
    settings = without_tags(settings_for(scenes, out, *overrides))
    with silence(), owning(settings):
        run = open_run(settings)
        _ = run.segmenter
        times = _by_ray(run) if kind == "ray" else _by_helpers(run, int(kind) - 1)
    written = sorted(path.stat().st_mtime for path in out.glob("proposals/store/train-*/part-*"))
    return times | {"photo": (written[-1] - written[0]) / (PART * (len(written) - 1))}


def _by_helpers(run: Run, number: int) -> dict[str, float]:
    gate, started = run.settings.out / "gate", time.monotonic()
    gate.mkdir()
    with helped_by(number, _help, run.settings.model_copy(update={"threads": None}), gate):
        while len(ready := list(gate.glob("ready-*"))) < number:
            time.sleep(0.01)
        before_of_others = sum(float(path.name.partition("-")[2]) for path in ready)
        (gate / "go").touch()
        began, before = time.monotonic(), _cpu(resource.RUSAGE_SELF)
        stage_named("proposals").run(run)
        wall, own = time.monotonic() - began, _cpu(resource.RUSAGE_SELF) - before
    others = _cpu(resource.RUSAGE_CHILDREN) - before_of_others
    return {"wall": wall, "own": own, "others": others, "start": began - started}


def _help(settings: RunSettings, gate: Path) -> None:
    """What a helper does: as `weaksam.pipeline.running.start_worker`, but that it waits once it has opened the run."""
    run = open_run(settings)
    _ = run.segmenter
    (gate / f"ready-{time.process_time():.3f}").touch()
    while not (gate / "go").exists():
        time.sleep(0.01)
    work(run, [stage_named("proposals")])


def _by_ray(run: Run) -> dict[str, float]:
    began = time.monotonic()
    with ray_actors(run.settings, ActorSettings(1), run.most_parts) as actors, filled_by(actors):
        started = time.monotonic()
        before, (member,) = _cpu(resource.RUSAGE_SELF), actors.members
        actor_before = _cpu_of(member.pid)
        actors.begin("proposals")
        stage_named("proposals").run(run)
        wall, own = time.monotonic() - started, _cpu(resource.RUSAGE_SELF) - before
        others = _cpu_of(member.pid) - actor_before
    return {"wall": wall, "own": own, "others": others, "start": started - began}


def _cpu(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _cpu_of(pid: int) -> float:
    """CPU seconds that a process of this machine has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def compare_stages(kinds: tuple[str, str], photos: int, size: int, grid: int, rounds: int) -> None:
    """Run both kinds in turn, each in a process of its own, and print the medians."""
    times: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder) / "scenes"
        write_dataset(scenes, SceneSettings(size=size), photos, 1, seed=1)
        for number in range(rounds):
            for kind in kinds[:: 1 if number % 2 == 0 else -1]:
                out = Path(folder) / f"{kind}-{number}"
                command = [sys.executable, __file__, "once", kind, str(scenes), str(out), str(grid)]
                text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                times[kind].append(json.loads(text.splitlines()[-1]))
                print(f"round {number + 1}, {kind}: {times[kind][-1]}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    print(f"{photos} photos of {size} pixels, {grid} x {grid} points, {rounds} rounds in turn; medians\n")
    print("| | s | s a photo | CPU s of the first process | of the other | all CPU s a photo | s to start |")
    print("|---|---|---|---|---|---|---|")
    middle = {kind: {key: median(row[key] for row in rows) for key in rows[0]} for kind, rows in times.items()}
    names = {"ray": "one Ray actor", "1": "1 worker", "2": "2 workers"}
    for kind in kinds:
        row = middle[kind]
        sums = (row["own"] + row["others"]) / photos
        shown = f"{row['wall']:.1f} | {row['photo']:.3f} | {row['own']:.1f} | {row['others']:.1f} | {sums:.3f}"
        print(f"| {names[kind]} | {shown} | {row['start']:.1f} |")
    walls = [a["wall"] / b["wall"] for a, b in zip(*(times[kind] for kind in kinds), strict=True)]
    print(f"\nwall {names[kinds[0]]} / {names[kinds[1]]}, by round: {', '.join(f'{ratio:.2f}' for ratio in walls)}")
    first, second = (middle[kind] for kind in kinds)
    if "ray" in kinds:
        print(f"a photo by Ray's path over one by the local one: {100 * (second['photo'] / first['photo'] - 1):+.1f} %")
    else:
        busiest = max(second["own"], second["others"])
        print(f"balance: {first['own'] / busiest:.2f} (CPU s of 1 worker over those of the busier of 2)")


# Ranks


def train_on_ranks(size: int, steps: int, folder: Path) -> dict[str, float]:
    """Retrain on the true boxes on ``size`` ranks; seconds a step by the clock, CPU seconds, share in communication."""
    context = torch.multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    ranks = [context.Process(target=_train, args=(rank, size, steps, folder, results)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        assert process.exitcode == 0, "a rank failed: see above"
    rows = [results.get() for _ in ranks]
    return {key: sum(row[key] for row in rows) / size for key in rows[0]}


def _train(rank: int, size: int, steps: int, folder: Path, results: Any) -> None:
    torch.set_num_threads(1)
    out = folder / f"{size}-{time.time_ns() if size == 1 else 'ranks'}"
    changes = [f"retrain.{text}" for text in ("short_side=256", "long_side=256", "batch_size=4", "num_epochs=2")]
    settings = settings_for(folder / "scenes", out, *changes, "retrain.detect_train=false")
    launch = Launch("torchrun", rank, size, rank) if size > 1 else Launch()
    with silence(), training_together(launch, out, "bench", job=f"job{os.getppid()}"), _communication():
        run = open_run(settings)
        truths = run.true_train.truths
        with _timed_steps() as times:
            retrain(run.context, settings.retrain, truths, name="retrain")
    kept = times[len(times) // 4 :]  # the first ones fill caches
    wall = (kept[-1][0] - kept[0][0]) / (len(kept) - 1)
    cpu = (kept[-1][1] - kept[0][1]) / (len(kept) - 1)
    exchanged = (kept[-1][2] - kept[0][2]) / (len(kept) - 1)
    results.put({"wall": wall, "cpu": cpu, "share": exchanged / wall, "steps": float(len(times))})


_SPENT = [0.0]


@contextmanager
def _communication() -> Iterator[None]:
    """Adds up the wall seconds inside torch.distributed in ``_SPENT``."""

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                _SPENT[0] += time.perf_counter() - began

        return call

    names = ("all_reduce", "all_gather", "broadcast_object_list", "all_gather_object")
    with patch.multiple(dist, **{name: timed(getattr(dist, name)) for name in names}):
        yield


@contextmanager
def _timed_steps() -> Iterator[list[tuple[float, float, float]]]:
    """Clock, CPU seconds and communication at every step of an optimizer."""
    times: list[tuple[float, float, float]] = []

    def keep(*_: Any) -> None:
        times.append((time.perf_counter(), time.process_time(), _SPENT[0]))

    handle = register_optimizer_step_post_hook(keep)
    try:
        yield times
    finally:
        handle.remove()


def compare_ranks(steps: int, rounds: int) -> None:
    """One and two ranks in turn; prints the medians."""
    rows: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for number in range(rounds):
        for size in (1, 2)[:: 1 if number % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                write_dataset(Path(folder) / "scenes", SceneSettings(size=256), 2 * steps, 1, seed=1)
                rows[size].append(train_on_ranks(size, steps, Path(folder)))
                print(f"round {number + 1}, {size}: {rows[size][-1]}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    print(f"{rounds} rounds in turn, load now {os.getloadavg()[0]:.1f}; medians\n")
    print("| ranks | s a step by the clock | CPU s a step of each rank | share in communication |\n|---|---|---|---|")
    for size, measured in rows.items():
        wall, cpu, share = (median(row[key] for row in measured) for key in ("wall", "cpu", "share"))
        print(f"| {size} | {wall:.2f} | {cpu:.2f} | {100 * share:.0f} % |")


# A plan on paper

ASSUMPTIONS = {
    "proposals_seconds": (0.5, "s a photo on an A100: ViT-H, 32 x 32 points (segment-anything-fast, pull request 69)"),
    "encode_seconds": (0.04, "s a photo on an A100: ViT-H's encoder alone (segment-anything-fast, int8: 25 photos/s)"),
    "clue_seconds": (0.2, "s a photo for class maps of a large ViT with its views; ours, by no measurement"),
    "detect_seconds": (0.05, "s a photo for detecting; ours: about half of what torchvision trains with"),
    "retrain_step_8": (0.229, "s a step of 16 photos on 8 V100 (torchvision, Faster R-CNN R50-FPN)"),
    "wsis_step_8": (0.273, "s a step of 16 photos on 8 V100 (torchvision, Mask R-CNN R50-FPN)"),
    "gigabytes_a_second": (10.0, "GB/s between ranks, sums not overlapped with the backward pass"),
    "parameters": (44.0e6, "parameters whose gradients are summed, in float32"),
    "start_seconds": (60.0, "s to start the processes of a stage and load its models"),
}
"""What the plan is computed from: value and where it comes from. A GPU of one kind is taken for that of the other."""


@dataclass(frozen=True)
class Set:
    """A dataset of the plan: photos, and steps of the trainings of its recipe."""

    name: str
    train: int
    test: int
    wsod_gpu_hours: float
    """Of the weak detector: 8 V100 for the hours that wetectron's issues 16 and 25 tell of MIST."""
    retrain_steps: int
    wsis_steps: int


SETS = (Set("VOC07", 5011, 4952, 8 * 9.5, 16000, 9000), Set("COCO14", 82783, 40504, 8 * 26, 85000, 90000))
BATCH, WSOD_BATCH, WSOD_STEPS, PART = 16, 8, 32000, 32


def photo_hours(photos: int, seconds: float, gpus: int) -> float:
    """Hours of a per-photo stage: whole parts of 32 photos go to GPUs."""
    rounds = math.ceil(math.ceil(photos / PART) / gpus)
    return (ASSUMPTIONS["start_seconds"][0] + min(rounds * PART, photos) * seconds) / 3600


def training_hours(steps: int, step_at_8: float, gpus: int, batch: int) -> float:
    """Hours of a training: each GPU takes its share of the batch, and gradients are summed afterwards."""

    def communication(ranks: int) -> float:
        size = 4 * ASSUMPTIONS["parameters"][0]
        return 2 * (ranks - 1) / ranks * size / (1e9 * ASSUMPTIONS["gigabytes_a_second"][0])

    ranks = min(gpus, batch)
    photo = (step_at_8 - communication(8)) / math.ceil(batch / 8)
    return (steps * (photo * math.ceil(batch / ranks) + communication(ranks)) + ASSUMPTIONS["start_seconds"][0]) / 3600


def print_plan() -> None:
    """The tables of both sets on 1, 8 and 64 GPUs, and every assumption."""
    value = {name: number for name, (number, _) in ASSUMPTIONS.items()}
    print("Not run: a model on paper. Hours by the clock.\n")
    print("| set | stage | 1 GPU | 8 GPUs | 64 GPUs |\n|---|---|---|---|---|")
    for photos in SETS:
        both, wsod_step_8 = photos.train + photos.test, photos.wsod_gpu_hours * 3600 / 8 / WSOD_STEPS
        stages: dict[str, Callable[[int], float]] = {
            "clues": lambda n, both=both: photo_hours(both, value["clue_seconds"], n),
            "proposals": lambda n, both=both: photo_hours(both, value["proposals_seconds"], n),
            "wsod training": lambda n, s=wsod_step_8: training_hours(WSOD_STEPS, s, n, WSOD_BATCH),
            "retrain": lambda n, p=photos: training_hours(p.retrain_steps, value["retrain_step_8"], n, BATCH),
            "masks": lambda n, p=photos: photo_hours(p.train, value["encode_seconds"], n),
            "wsis": lambda n, p=photos: training_hours(p.wsis_steps, value["wsis_step_8"], n, BATCH),
            "detecting": lambda n, p=photos: 3 * photo_hours(p.train + p.test, value["detect_seconds"], n),
        }
        for name, hours in stages.items():
            print(f"| {photos.name} | {name} | " + " | ".join(f"{hours(gpus):.1f}" for gpus in (1, 8, 64)) + " |")
        sums = [sum(hours(gpus) for hours in stages.values()) for gpus in (1, 8, 64)]
        print(f"| {photos.name} | all | " + " | ".join(f"{total:.1f}" for total in sums) + " |")
    print("\nAssumed:\n")
    for name, (number, text) in ASSUMPTIONS.items():
        print(f"* `{name}` {number:g}: {text}")
    print(f"* a step has {BATCH} photos ({WSOD_BATCH} of the weak detector), a part {PART}; GPUs above a batch idle")


def main() -> None:
    """Parse the command line, run and print markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("proposals", "ray", "ranks", "plan", "once"))
    parser.add_argument("rest", nargs="*", help="of 'once', which the others start: kind, scenes, out, grid")
    for name, default in (("photos", 128), ("size", 384), ("grid", 16), ("rounds", 2), ("steps", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    if arguments.mode == "once":
        kind, scenes, out, grid = arguments.rest
        print(json.dumps(time_stage(kind, Path(scenes), Path(out), int(grid))))
    elif arguments.mode == "ranks":
        compare_ranks(arguments.steps, arguments.rounds)
    elif arguments.mode == "plan":
        print_plan()
    else:
        kinds = ("1", "2") if arguments.mode == "proposals" else ("1", "ray")
        compare_stages(kinds, arguments.photos, arguments.size, arguments.grid, arguments.rounds)


if __name__ == "__main__":
    main()
