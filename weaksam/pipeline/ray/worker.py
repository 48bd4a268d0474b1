"""Compute parts of a run's stores by their numbers, in a process that trains, measures and reports nothing."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from weaksam.config import UserError, fingerprint_of, settings_from
from weaksam.engine.distributed import HELPER, code_fingerprint
from weaksam.engine.rendezvous import Member
from weaksam.pipeline.plan import stage_named
from weaksam.pipeline.ray.settings import ActorOrder, token_problem
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import Run, open_run
from weaksam.store.listed_files import MANIFEST
from weaksam.store.part_helpers import Rows, WritableStore, filled_by
from weaksam.store.progress import Progress
from weaksam.store.records import read_manifest
from weaksam.terminal import silence

SEE_SECONDS = 90.0
"""How long a file that another machine has written may take to be seen: network disks remember what was not there."""
TOKEN_SECONDS = 10.0
"""The same for the file by which an actor knows the output folder."""
_RETRY_SECONDS = 1.0


class _Reached(Exception):
    """The stage has come to the store that is wanted."""

    def __init__(self, store: WritableStore, rows: Rows) -> None:
        self.store, self.rows = store, rows


class _UntilStore:
    """Lets a stage run until it would fill the store in ``folder``; every store before must be finished."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def fill(self, store: WritableStore, rows: Rows, shown: Progress) -> None:
        """Raise `_Reached` at the wanted store, and `UserError` at another one that is not finished."""
        if str(store.folder) == self.folder:
            raise _Reached(store, rows)
        raise UserError(
            f"wanted the finished store {store.folder}, which others read, found parts of it missing: put out=DIR on "
            "a disk that all machines share"
        )


class PartWorker:
    """An actor's work. It opens the run as the first process did and keeps the models of the store that it fills.

    It belongs in a process of its own, which becomes a helper: its run trains nothing and writes no log.
    """

    def __init__(self, order: ActorOrder) -> None:
        os.environ[HELPER] = str(order.number)
        torch.set_num_threads(order.threads)
        self._order = order
        self._run: Run | None = None
        self._folder = ""
        self._reached: tuple[WritableStore, Rows] | None = None

    def report(self) -> tuple[Member, str]:
        """Make ready, and say who this is, and in one sentence what keeps it from working, if anything does."""
        order, fingerprints = self._order, {}
        try:
            os.chdir(order.folder)
            problem = _see_token(Path(order.token), order.nonce)
        except OSError:
            problem = (
                f"wanted the run's working directory {order.folder} on {platform.node()}, found none there: put it and "
                "what its paths name on a disk that all machines share"
            )
        if not problem:
            fingerprints = fingerprints_here(_settings(order))
        return Member.of_this_process(order.number, fingerprints), problem

    def compute(self, stage: str, before: Sequence[str], folder: str, index: int) -> str:
        """Write part ``index`` of the store in ``folder``, which ``stage`` fills; returns a sentence where it cannot.

        ``before``: the finished stages that the run has made before it, in order.
        """
        try:
            with silence():
                if folder != self._folder:
                    self.release()
                    self._reached, self._folder = self._reach_patiently(stage, before, folder), folder
                if self._reached is not None:
                    store, rows = self._reached
                    part = store.parts[index]
                    store.write(part, rows(part.image_ids))
        except UserError as error:
            return str(error)
        return ""

    def release(self) -> None:
        """Let go of the models of the store that was filled."""
        self._reached, self._folder = None, ""
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _reach_patiently(self, stage: str, before: Iterable[str], folder: str) -> tuple[WritableStore, Rows] | None:
        """`_reach`, again for some time where this machine does not see yet what the first process has finished."""
        deadline = time.monotonic() + SEE_SECONDS
        while True:
            try:
                return self._reach(stage, before, folder)
            except UserError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _reach(self, stage: str, before: Iterable[str], folder: str) -> tuple[WritableStore, Rows] | None:
        """The store and what computes its rows; None where it has been finished."""
        run = self._opened()
        if read_manifest(Path(folder) / MANIFEST) is not None:
            return None
        try:
            with filled_by(_UntilStore(folder)):
                for name in before:
                    if not set(stage_named(name).outputs) <= set(run.results):
                        stage_named(name).run(run)
                stage_named(stage).run(run)
        except _Reached as reached:
            return reached.store, reached.rows
        return None

    def _opened(self) -> Run:
        """The run, whose data are read once."""
        if self._run is None:
            self._run = open_run(_settings(self._order).model_copy(update={"threads": self._order.threads}))
        return self._run


def fingerprints_here(settings: RunSettings) -> dict[str, str]:
    """What must be equal in the first process and all actors, by name."""
    return {
        "settings": fingerprint_of(settings),
        "Python": platform.python_version(),
        "code or torch": code_fingerprint(),
    }


def _settings(order: ActorOrder) -> RunSettings:
    return settings_from(RunSettings, json.loads(order.settings), "the run's settings")


def _see_token(path: Path, nonce: str) -> str:
    """`token_problem`; a file that is not there yet is looked for again, for it lies in a folder nobody has read."""
    deadline = time.monotonic() + TOKEN_SECONDS
    while (problem := token_problem(path, nonce, platform.node())) and time.monotonic() < deadline:
        time.sleep(_RETRY_SECONDS)
    return problem
