"""Time every stage on a device and print one Markdown table; `benchmarks/gpu.sh` sets it up on a bare GPU machine.

    python benchmarks/gpu.py                        # on the first GPU, at the sizes of VOC
    python benchmarks/gpu.py --device cpu --toy     # a smoke test of the same code

All weights are random and photos are coloured noise: times depend on neither, but for how many masks and boxes a
network finds. Each row is timed alone, after a first call that is not counted; one that fails says why and leaves the
others be. *Waits* are the places where the CPU waited for the GPU in one call, as torch's own debug mode counts them.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from gpu_stages import Timed

WANTED = (
    "torchvision", "numpy", "scipy", "PIL", "pydantic", "yaml", "pyarrow", "safetensors", "pycocotools",
    "faster_coco_eval", "segment_anything", "transformers", "higra", "sklearn",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Seconds of a photo, peak memory of the GPU in bytes and waits of one call; None where there is no GPU."""

    seconds: float
    memory: int | None
    waits: int | None


def measure(timed: Timed, device: torch.device, seconds: float) -> Measured:
    """Median seconds of a photo over calls that take about ``seconds`` together, at most twenty."""
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    timed.call()
    times: list[float] = []
    while len(times) < 20 and (len(times) < 1 or sum(times) + times[-1] < seconds):
        started = _now(device)
        timed.call()
        times.append(_now(device) - started)
    memory = torch.cuda.max_memory_allocated(device) if is_gpu else None
    waits = count_waits(timed.call) if is_gpu else None
    return Measured(statistics.median(times) / timed.num_photos, memory, waits)


def count_waits(call: Callable[[], object]) -> int:
    """How often the CPU waits for the GPU in ``call``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def print_machine(device: torch.device) -> None:
    """Say what computes and what is not there."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    missing = [module for module in WANTED if not _is_there(module)]
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, Python {sys.version.split()[0]}")
    if missing:
        print(f"not installed, so rows that need them fail: {', '.join(missing)}")


def _is_there(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:
        return False
    return True


def print_table(device: torch.device, options: argparse.Namespace) -> int:
    """Print a row for each stage as soon as it is timed; how many failed."""
    try:
        from gpu_stages import STAGES, Bench
    except ImportError as error:
        print(f"wanted the package's own modules, found that {error}: put a wheel of it into .whl/, see gpu.sh")
        return 1

    print(
        "| stage | what | ms a photo | photos/s | peak GPU MiB | waits a call |\n|---|---|---|---|---|---|", flush=True
    )
    failed, started = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), device, options.toy)
        for name, prepare in STAGES.items():
            if options.only and options.only not in name:
                continue
            if time.monotonic() - started > options.most_seconds:
                print(f"| {name} | left out: {options.most_seconds:.0f} s are over | | | | |", flush=True)
                continue
            try:
                timed = prepare(bench)
                row = _row(timed, measure(timed, device, options.seconds))
            except Exception as error:
                traceback.print_exc()
                failed += 1
                reason = (str(error).splitlines() or [""])[0][:120].replace("|", "/")
                row = f"failed: {type(error).__name__}: {reason} | | | | |"
            print(f"| {name} | {row}", flush=True)
            timed = None
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    print(f"{time.monotonic() - started:.0f} s in all, {failed} of {len(STAGES)} rows failed")
    return failed


def _row(timed: Timed, measured: Measured) -> str:
    memory = "" if measured.memory is None else f"{measured.memory / 2**20:.0f}"
    waits = "" if measured.waits is None else str(measured.waits)
    return f"{timed.what} | {1000 * measured.seconds:.1f} | {1 / measured.seconds:.2f} | {memory} | {waits} |"


def main(arguments: list[str] | None = None) -> int:
    """Print the machine and the table; 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="networks and photos of toy size")
    parser.add_argument("--only", help="rows whose name has this in it")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a row, about, after its first call")
    parser.add_argument("--most-seconds", type=float, default=330.0, help="after these no further row is begun")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("wanted a GPU, found none that torch can use: give --device cpu --toy for a smoke test")
    device = torch.device(options.device)
    print_machine(device)
    return 1 if print_table(device, options) else 0


if __name__ == "__main__":
    sys.exit(main())
