"""Let the processes of one job find each other by a file in the output folder, and know later which of them died.

The first process opens a store of values on a free port and writes its address into ``OUT/.ranks``. The others read it
there: one that does not see it does not see the same folder, and could not share the stores either.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from weaksam.config import UserError
from weaksam.store.files import write_json_atomic
from weaksam.store.owner import process_start, this_machine
from weaksam.store.records import read_record

FOLDER = ".ranks"
"""Folder of the address, below the output folder."""
MEET_SECONDS = 300.0
"""How long a process waits for the others: on a cluster they start one after the other."""
_RETRY_SECONDS = 0.2


@dataclass(frozen=True)
class Member:
    """One process of the job, as the others know it."""

    rank: int
    machine: str
    host: str
    pid: int
    process: str
    """When it began, as its system counts."""
    fingerprints: Mapping[str, str]
    """Of what must be equal in all processes, by name."""

    @classmethod
    def of_this_process(cls, rank: int, fingerprints: Mapping[str, str]) -> Member:
        """This process."""
        pid = os.getpid()
        return cls(rank, this_machine(), platform.node(), pid, process_start(pid) or "", dict(fingerprints))

    def is_dead(self) -> bool | None:
        """Whether the process has ended; None on another machine, where nobody can see it."""
        return process_start(self.pid) != self.process if self.machine == this_machine() else None

    def __str__(self) -> str:
        return f"process {self.rank} (pid {self.pid} on {self.host})"


@contextlib.contextmanager
def meeting(out: Path, job: str, rank: int, size: int, seconds: float | None = None) -> Iterator[dist.Store]:
    """The store of values that the ``size`` processes of ``job`` share; its address lies in ``out`` in the block.

    ``job``: what the launcher calls this start, the same in all processes. ``MASTER_ADDR`` in the environment is the
    address of the first process where its host's name is not known to the others.

    Raises:
        UserError: the first process is not met, as where ``out`` is not on a disk that all machines share, or others
            do not come.
    """
    seconds = MEET_SECONDS if seconds is None else seconds
    path = out / FOLDER / f"{job}.json"
    if rank > 0:
        yield _await_all(_joined(path, size, seconds), size, seconds)
        return
    store = dist.TCPStore("0.0.0.0", 0, size, True, datetime.timedelta(seconds=seconds), wait_for_workers=False)
    nonce = uuid.uuid4().hex
    store.set("nonce", nonce)
    address = os.environ.get("MASTER_ADDR", socket.getfqdn())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, {"machine": this_machine(), "address": address, "port": store.port, "nonce": nonce})
    try:
        yield _await_all(store, size, seconds)
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def _await_all(store: dist.Store, size: int, seconds: float) -> dist.Store:
    """The ``store`` once all processes have come."""
    deadline, come = time.monotonic() + seconds, int(store.add("come", 1))
    while come < size and time.monotonic() < deadline:
        time.sleep(_RETRY_SECONDS)
        come = int(store.add("come", 0))
    if come < size:
        raise UserError(
            f"wanted {size} processes, found {come} that met in {seconds:.0f} s: look above for why the others did "
            "not start, and put out=DIR on a disk that all machines share"
        )
    return store


def _joined(path: Path, size: int, seconds: float) -> dist.Store:
    """The store of the first process, once its address is there and answers."""
    deadline, seen = time.monotonic() + seconds, False
    while time.monotonic() < deadline:
        values = read_record(path) or {}
        if {"machine", "address", "port", "nonce"} <= set(values):
            seen = True
            store = _connected(values, size)
            if store is not None:
                return store
        time.sleep(_RETRY_SECONDS)
    if seen:
        raise UserError(
            f"wanted to reach the first process at the address in {path}, found no answer in {seconds:.0f} s: set "
            "MASTER_ADDR to an address of its machine that the others can reach"
        )
    raise UserError(
        f"wanted the first process's file {path}, found none in {seconds:.0f} s: put out=DIR on a disk that all "
        "machines share, and look above for why the first process did not start"
    )


def _connected(values: Mapping[str, object], size: int) -> dist.Store | None:
    """The store at an address; None where nobody answers, or another job does."""
    host = "127.0.0.1" if values["machine"] == this_machine() else str(values["address"])
    port, limit = int(str(values["port"])), datetime.timedelta(seconds=10)
    with contextlib.suppress(RuntimeError, OSError):
        with socket.create_connection((host, port), timeout=5):  # quicker and more silent than the store's own attempts
            pass
        store = dist.TCPStore(host, port, size, False, limit, wait_for_workers=False)
        if store.get("nonce").decode() == values["nonce"]:
            return store
    return None


def check_members(members: Sequence[Member]) -> None:
    """`UserError` where a process differs from the first in what must be equal: settings, code, libraries."""
    first = members[0]
    for member in members[1:]:
        different = [name for name, value in first.fingerprints.items() if member.fingerprints.get(name) != value]
        if different:
            raise UserError(
                f"wanted the same {' and '.join(different)} in all processes, found others in {member} than in "
                f"{first}: start all processes with one command, configuration and installation"
            )


def death_of(members: Sequence[Member], patience: float = 5.0) -> str:
    """A sentence about which of the other ``members`` has died, looked for during ``patience`` seconds."""
    others = [member for member in members if member.pid != os.getpid() or member.machine != this_machine()]
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        dead = [str(member) for member in others if member.is_dead()]
        if dead:
            return f"{' and '.join(dead)} died"
        time.sleep(_RETRY_SECONDS)
    elsewhere = sorted({member.host for member in others if member.is_dead() is None})
    return f"a process on {', '.join(elsewhere)} is out of reach" if elsewhere else "another process ended"
