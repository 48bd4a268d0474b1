"""Time every stage on a device and print one Markdown table; `benchmarks/gpu.sh` sets it up on a bare GPU machine.

    python benchmarks/gpu.py                        # on the first GPU, at the sizes of VOC
    python benchmarks/gpu.py --device cpu --toy     # a smoke test of the same code

All weights are random and photos are coloured noise: times depend on neither, but for how many masks and boxes a
network finds. Each row is timed in a process of its own, after a first call that is not counted; one that fails, dies
or takes longer than ``--row-seconds`` says so and leaves the others be. *Share of peak*: floating point operations of
matrix products and convolutions (torch's ``FlopCounterMode``) a second, as a share of what one large matrix product
reaches on this device in the row's precision. *Waits* are the places where the CPU waited for the GPU in one call, as
torch's own debug mode counts them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from gpu_stages import Timed

WANTED = (
    "torchvision", "numpy", "scipy", "PIL", "pydantic", "yaml", "pyarrow", "safetensors", "pycocotools",
    "faster_coco_eval", "segment_anything", "transformers", "higra", "sklearn",
)  # fmt: skip
PRELOADED = (
    "weaksam.engine.detectors.detecting", "weaksam.models.detectors.mask2former.network", "weaksam.stages.wsod",
    "weaksam.models.detectors.dino.build", "weaksam.sam.official.segmenter", "weaksam.stages.proposals",
)  # fmt: skip
HEADER = "| stage | what | ms a photo | photos/s | TFLOP/s | share of peak | peak GPU MiB | waits a call |"


@dataclass(frozen=True)
class Measured:
    """Seconds and floating point operations of a photo, peak memory of the GPU in bytes and waits of one call.

    None where they are not known: memory and waits without a GPU. ``peak``: operations a second of a matrix product.
    """

    seconds: float
    flops: float | None
    peak: float
    memory: int | None
    waits: int | None


def measure(timed: Timed, device: torch.device, seconds: float, peak: float) -> Measured:
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
    flops = count_flops(timed.call)
    per_photo = None if flops is None else flops / timed.num_photos
    return Measured(statistics.median(times) / timed.num_photos, per_photo, peak, memory, waits)


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


def count_flops(call: Callable[[], object]) -> float | None:
    """Floating point operations of ``call``; None where torch cannot count them, which costs no row."""
    from torch.utils.flop_counter import FlopCounterMode

    for context in (contextlib.nullcontext(), torch.no_grad()):  # its hooks fail where nothing goes backward
        try:
            with context, FlopCounterMode(display=False) as counter:
                call()
            return float(counter.get_total_flops())
        except Exception:
            traceback.print_exc()
    return None


def matmul_peak(device: torch.device, precision: str, toy: bool) -> float:
    """Operations a second of a large matrix product, the best of some."""
    side = 256 if toy else 8192
    factor = torch.randn(side, side, device=device, dtype=getattr(torch, precision))
    best = float("inf")
    for _ in range(5):
        started = _now(device)
        _ = factor @ factor
        best = min(best, _now(device) - started)
    return 2 * side**3 / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_row(name: str, options: argparse.Namespace, sender: Connection) -> None:
    """Send ``(what, Measured)`` of a row, or the reason why there is none; the work of a process of its own."""
    try:
        sys.path[:0] = [str(Path(__file__).resolve().parent), *options.path]
        from gpu_stages import Bench

        device = torch.device(options.device)
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), device, options.toy)
            timed = importlib.import_module(options.rows).ROWS[name](bench)
            precision = "bfloat16" if bench.precision in timed.what and bench.precision != "float32" else "float32"
            peak = matmul_peak(device, precision, options.toy)
            sender.send((timed.what, measure(timed, device, options.seconds, peak)))
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).splitlines() or [""])[0][:120].replace("|", "/")
        sender.send(f"failed: {type(error).__name__}: {reason}")


def result_of(name: str, options: argparse.Namespace) -> tuple[str, Measured] | str:
    """What `measure_row` sends, or what became of its process; a fork that the GPU does not take starts anew."""
    result = _result_of(name, options, "forkserver")
    return _result_of(name, options, "spawn") if isinstance(result, str) and "forked subprocess" in result else result


def _result_of(name: str, options: argparse.Namespace, method: str) -> tuple[str, Measured] | str:
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":  # none of these touches the GPU when it is imported
        context.set_forkserver_preload(["torch", "torchvision", "transformers", "gpu_rows", *PRELOADED])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure_row, args=(name, options, sender), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(options.row_seconds):
            return f"failed: took longer than {options.row_seconds:.0f} s"
        result: tuple[str, Measured] | str = receiver.recv()
        return result
    except EOFError:
        process.join(5)
        return f"failed: its process ended with {process.exitcode}"
    finally:
        process.join(5)
        process.kill()
        process.join()


def print_machine(device: str) -> None:
    """Say what computes and what is not there."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    missing = [module for module in WANTED if not _is_there(module)]
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, Python {sys.version.split()[0]}")
    if missing:
        print(f"not installed, so rows that need them fail: {', '.join(missing)}")


def _is_there(module: str) -> bool:
    with contextlib.suppress(Exception):
        importlib.import_module(module)
        return True
    return False


def print_table(names: list[str], options: argparse.Namespace) -> int:
    """Print a row for each stage as soon as it is timed; how many failed."""
    print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|", flush=True)
    failed, started = 0, time.monotonic()
    for name in names:
        if time.monotonic() - started > options.most_seconds:
            print(f"| {name} | left out: {options.most_seconds:.0f} s are over | | | | | | |", flush=True)
            continue
        result = result_of(name, options)
        failed += isinstance(result, str)
        print(f"| {name} | {f'{result} | | | | | | |' if isinstance(result, str) else _row(*result)}", flush=True)
    print(f"{time.monotonic() - started:.0f} s in all, {failed} of {len(names)} rows failed")
    return failed


def _row(what: str, measured: Measured) -> str:
    speed = None if measured.flops is None else measured.flops / measured.seconds
    cells = [
        what,
        f"{1000 * measured.seconds:.1f}",
        f"{1 / measured.seconds:.2f}",
        "" if speed is None else f"{speed / 1e12:.3g}",
        "" if speed is None else f"{100 * speed / measured.peak:.1f} %",
        "" if measured.memory is None else f"{measured.memory / 2**20:.0f}",
        "" if measured.waits is None else str(measured.waits),
    ]
    return " | ".join(cells) + " |"


def main(arguments: list[str] | None = None) -> int:
    """Print the machine and the table; 1 if a row failed."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # so that asking for a GPU spoils no fork
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="networks and photos of toy size")
    parser.add_argument("--only", help="rows whose name has this in it")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a row, about, after its first call")
    parser.add_argument("--row-seconds", type=float, default=75.0, help="after these a row has failed")
    parser.add_argument("--most-seconds", type=float, default=450.0, help="after these no further row is begun")
    parser.add_argument("--rows", default="gpu_rows", help="module with the rows, by name in ROWS")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("wanted a GPU, found none that torch can use: give --device cpu --toy for a smoke test")
    options.path = list(sys.path)
    print_machine(options.device)
    try:
        rows = importlib.import_module(options.rows).ROWS
    except ImportError as error:
        print(f"wanted the package's own modules, found that {error}: put a wheel of it into .whl/, see gpu.sh")
        return 1
    return 1 if print_table([name for name in rows if (options.only or "") in name], options) else 0


if __name__ == "__main__":
    sys.exit(main())
