"""Start processes on this machine that help the one that starts them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from weaksam.engine.distributed import HELPER

MOST_WORKERS = 4
"""Processes that a job is shared by at most where nobody sets their number."""
_PR_SET_PDEATHSIG = 1
"""The number by which Linux knows the wish for a signal at the parent's death."""


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def helped_by(number: int, work: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Start ``number`` processes that call ``work(*arguments)`` while the block runs, and wait for them at its end.

    Their ranks are 1, 2, ..., see `this_process`; they and this process divide torch's threads among them. The work is
    shared by a store whose missing parts each of them takes; one that fails or is killed leaves its parts to the
    others. What they print is dropped, since this process prints the same. A block that raises stops them, and they end
    with this process where it is killed.
    """
    if number < 1:
        yield
        return
    threads = torch.get_num_threads()
    share = max(1, threads // (number + 1))
    context = multiprocessing.get_context("spawn")
    helpers = [
        context.Process(target=_run_helper, args=(rank, share, work, arguments), daemon=True)
        for rank in range(1, number + 1)
    ]
    torch.set_num_threads(share)
    try:
        with _without_ctrl_c():
            for helper in helpers:
                helper.start()
        yield
        for helper in helpers:
            helper.join()
    finally:
        torch.set_num_threads(threads)
        for helper in helpers:
            if helper.pid is not None:
                helper.terminate()


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that start in the block see no Ctrl-C, as this process stops them; it sees its own on another thread.

    What it gets on none waits for the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process, which `helped_by` started, as soon as the one that started it is dead."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "wanted a process that another one started"
    if sys.platform == "linux":  # the system does it, whatever Python is busy with
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_after, args=(parent.sentinel,), name="parent", daemon=True).start()


def _end_after(sentinel: int) -> None:
    """End this process when the one behind ``sentinel`` has ended, now if it has already."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _run_helper(rank: int, threads: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What a helper process does: take its rank and threads, fall silent, and work."""
    end_with_parent()
    os.environ[HELPER] = str(rank)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    torch.set_num_threads(threads)
    work(*arguments)
