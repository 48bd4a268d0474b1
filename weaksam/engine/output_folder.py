"""Own an output folder while a run is under way, so that no second one writes to it."""

from __future__ import annotations

import _thread
import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from weaksam.engine.device import pick_device
from weaksam.engine.distributed import own_device, this_process, training_together, unused_rank
from weaksam.models.ranks import ranks
from weaksam.store.owner import Ownership
from weaksam.terminal import printable, say, silence


@contextlib.contextmanager
def owned(out: Path, fingerprint: str) -> Iterator[Ownership]:
    """Own ``out``, which is made, while the block runs; ``fingerprint`` is that of the run's settings.

    Raises `UserError` where another living process owns the folder, or it cannot be written to. The process is
    interrupted where another one takes the folder over, as it may after this one was stopped for long.
    """
    ownership = Ownership(out, fingerprint, _command(), note)
    try:
        ownership.acquire(lambda: _lost(out))
        yield ownership
    finally:
        ownership.release()


@contextlib.contextmanager
def owned_together(out: Path, fingerprint: str, device: str) -> Iterator[torch.device]:
    """Let the processes that were started together train in the block, of which the first one owns ``out`` and speaks.

    Gives the device of this process for the setting ``device``; of several GPUs it is made the current one, as what
    the processes exchange goes by that. Raises `UserError` as `owned` and `training_together` do.
    """
    if unused := unused_rank():
        say(unused, error=True)
    launch = this_process()
    with training_together(launch, out, fingerprint), owned(out, fingerprint) if ranks().first else silence():
        own = pick_device(own_device(device, launch))
        if own.type == "cuda" and launch.together:
            torch.cuda.set_device(own)
        yield own


def note(sentence: str) -> None:
    """Say a sentence about the folder on standard error."""
    say(f"weaksam: {sentence}", error=True)


def _lost(out: Path) -> None:
    note(f"another process has taken over {out} while this one stood still: this one ends, the other one goes on")
    _thread.interrupt_main()


def _command() -> str:
    """The command line of this process, as it is shown to others."""
    return printable(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))[:300]
