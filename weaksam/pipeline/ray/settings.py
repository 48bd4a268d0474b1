"""Define how many actors of which Ray cluster help a run, and what each of them is sent when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ActorSettings:
    """The actors that a run asks a Ray cluster for."""

    num: int | None = None
    """How many; None: one per GPU of the cluster, or without a GPU as many as its cores have room for."""
    address: str | None = None
    """Of a running cluster: ``HOST:PORT`` of its head, or ``auto`` for the one of this machine. None starts one here,
    which ends with the run."""


@dataclass(frozen=True)
class ActorOrder:
    """What an actor is sent when it starts; afterwards it gets names of stores and numbers of parts alone."""

    number: int
    """1, 2, ... among the actors of the run."""
    threads: int
    """For torch."""
    settings: str
    """The run's settings as JSON."""
    folder: str
    """The working directory of the run, from which paths count."""
    token: str
    """A file that the first process has written below OUT: who does not see it has another disk."""
    nonce: str
    """What the file holds."""


def token_problem(path: Path, nonce: str, host: str) -> str:
    """A sentence where the file ``path`` does not hold ``nonce`` as seen from ``host``; empty where it does."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        text = ""
    if text == nonce:
        return ""
    return (
        f"wanted the output folder {path.parent} of the first process on {host}, found another one or none there: put "
        "out=DIR on a disk that all machines share, under the same path"
    )
