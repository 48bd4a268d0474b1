"""Further processes on this machine that share a job whose parts lie in a store."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch

MOST_WORKERS = 4


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def helped_by(number: int, work: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """While the block runs, ``number`` processes call ``work(*arguments)``, with ``RANK`` 1, 2, ... in the environment.

    They and this process divide torch's threads among them. What they print is dropped: this process says it all. One
    that fails or is killed leaves its share to the others. After a block that raises they are stopped.
    """
    if number < 1:
        yield
        return
    threads = torch.get_num_threads()
    share = max(1, threads // (number + 1))
    context = multiprocessing.get_context("spawn")
    helpers = [
        context.Process(target=_help, args=(rank, share, work, arguments), daemon=True) for rank in range(1, number + 1)
    ]
    for helper in helpers:
        helper.start()
    torch.set_num_threads(share)
    try:
        yield
        for helper in helpers:
            helper.join()
    finally:
        torch.set_num_threads(threads)
        for helper in helpers:
            helper.terminate()


def _help(rank: int, threads: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["RANK"] = str(rank)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to answer, which then stops this one
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    torch.set_num_threads(threads)
    work(*arguments)


def worker_rank() -> int:
    """Which of several processes started together this is (torchrun's or Slurm's number); 0 where it is alone."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def own_device(name: str) -> str:
    """``auto`` as the GPU of this process where several were started on a machine; every other name as it is."""
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID")
    if name != "auto" or local is None or not torch.cuda.is_available():
        return name
    return f"cuda:{int(local) % torch.cuda.device_count()}"
