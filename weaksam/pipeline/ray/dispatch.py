"""Hand the numbers of a store's missing parts to Ray actors, and to others where an actor or its machine dies."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from weaksam.config import UserError
from weaksam.engine.rendezvous import Member, check_members
from weaksam.pipeline.ray import cluster
from weaksam.pipeline.ray.settings import ActorOrder, ActorSettings
from weaksam.pipeline.ray.worker import SEE_SECONDS, PartWorker, fingerprints_here
from weaksam.pipeline.settings import RunSettings
from weaksam.store.part_helpers import Rows, WritableStore
from weaksam.store.parts import StorePart
from weaksam.store.progress import Progress
from weaksam.terminal import say

START_SECONDS = 300.0
"""How long an actor may take to start: others may use the cluster."""
MOST_DEATHS = 3
"""Of actors that compute one part, before the run gives up."""
_STEP_SECONDS = 1.0


@contextlib.contextmanager
def ray_actors(settings: RunSettings, actors: ActorSettings, most: int) -> Iterator[RayActors]:
    """The actors of a run, ``most`` at most, in the block: started, and found to have its code and its folder.

    Raises `UserError` where the cluster or an actor cannot be used, see `cluster.connected`.
    """
    threads = cluster.threads_of_actors(actors, settings.threads)
    with cluster.connected(actors, threads) as ray, _token(settings.out) as (path, nonce):
        num, resources = cluster.actor_resources(ray, actors, settings.device, threads)
        if num > most:
            say(f"ray: {most} actors instead of {num}, as there are no more parts of photos", error=True)
        helpers = RayActors(ray, min(num, most), resources, _order(settings, threads, path, nonce))
        helpers.start_all(Member.of_this_process(0, fingerprints_here(settings)))
        try:
            yield helpers
        finally:
            helpers.end()


def _order(settings: RunSettings, threads: int, token: Path, nonce: str) -> dict[str, Any]:
    """What all actors are sent, see `ActorOrder`; each gets a number beside it."""
    text = json.dumps(settings.model_dump(mode="json"))
    return {"threads": threads, "settings": text, "folder": os.getcwd(), "token": str(token), "nonce": nonce}


@contextlib.contextmanager
def _token(out: Path) -> Iterator[tuple[Path, str]]:
    """A file in the output folder, in the block, and what it holds."""
    nonce = uuid.uuid4().hex
    path = out / f".shared.{uuid.uuid4().int}.tmp"  # removed with other leftovers where this process is killed
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(nonce, encoding="utf-8")
    try:
        yield path, nonce
    finally:
        path.unlink(missing_ok=True)


class RayActors:
    """The actors of one run. They get part numbers and write parts; no photo and no row passes through Ray."""

    def __init__(self, ray: ModuleType, num: int, resources: dict[str, int], order: dict[str, Any]) -> None:
        self._ray, self.num, self._resources, self._order = ray, num, resources, order
        self._class = ray.remote(PartWorker)
        self._numbers = 0
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}  # the reference of an actor's report: the actor
        self._members: dict[Any, Member] = {}
        self._first: Member | None = None
        self.stage, self.before = "", list[str]()

    @property
    def members(self) -> list[Member]:
        """The actors that have started, those that died aside."""
        return list(self._members.values())

    def begin(self, stage: str) -> None:
        """Fill the stores of ``stage`` from now on; those before it are finished."""
        if self.stage:
            self.before.append(self.stage)
        self.stage = stage

    def start_all(self, first: Member) -> None:
        """Start the actors and compare each with the ``first`` process; raises `UserError` where one differs."""
        self._first = first
        for _ in range(self.num):
            self._start()
        deadline = time.monotonic() + START_SECONDS
        while self._starting:
            self._take_in(self._ready(list(self._starting)))
            if self._starting and time.monotonic() > deadline:
                raise UserError(
                    f"wanted {self.num} Ray actors, found {self.num - len(self._starting)} that started in "
                    f"{START_SECONDS:.0f} s: wait until others leave the cluster, or give fewer --workers"
                )

    def fill(self, store: WritableStore, rows: Rows, shown: Progress) -> None:
        """Let the actors write every missing part; ``rows`` stay here, as each actor makes its own.

        Raises `UserError` where an actor does, or where `MOST_DEATHS` of them die at one part or none is left.
        """
        waiting, deaths = deque(store.missing_parts()), Counter[int]()
        running: dict[Any, tuple[Any, StorePart]] = {}
        alone_since = time.monotonic()
        while waiting or running:
            while waiting and self._idle:
                actor, part = self._idle.pop(), waiting.popleft()
                task = actor.compute.remote(self.stage, self.before, str(store.folder), part.index)
                running[task] = actor, part
            for task in self._ready([*running, *self._starting]):
                if task in self._starting:
                    self._take_in([task])
                    continue
                actor, part = running.pop(task)
                if self._is_done(task, actor, part, store, deaths):
                    self._idle.append(actor)
                    shown.update(len(part.image_ids))
                else:
                    waiting.appendleft(part)
            if running or self._idle:
                alone_since = time.monotonic()
            elif time.monotonic() > alone_since + START_SECONDS:
                raise UserError(
                    f"wanted a Ray actor to compute {store.folder}, found that all died and none started in "
                    f"{START_SECONDS:.0f} s: see 'ray status', and run the same command again, which goes on"
                )
        for actor in self._idle:
            actor.release.remote()
        _await_parts(store)

    def end(self) -> None:
        """End all actors."""
        for actor in [*self._members, *self._starting.values()]:
            with contextlib.suppress(Exception):  # of a cluster that is gone
                self._ray.kill(actor)

    def _start(self) -> None:
        self._numbers += 1
        order = ActorOrder(number=self._numbers, **self._order)
        options = {**self._resources, "max_restarts": 0, "max_task_retries": 0}
        actor = self._class.options(**options).remote(order)
        self._starting[actor.report.remote()] = actor

    def _ready(self, tasks: list[Any]) -> list[Any]:
        """Those of ``tasks`` that have ended, after a second at most."""
        return list(self._ray.wait(tasks, num_returns=len(tasks), timeout=0)[0]) or list(
            self._ray.wait(tasks, num_returns=1, timeout=_STEP_SECONDS)[0]
        )

    def _take_in(self, tasks: list[Any]) -> None:
        """Let actors that have started work; raises `UserError` where one differs from the first process."""
        for task in tasks:
            actor = self._starting.pop(task)
            try:
                member, problem = self._ray.get(task)
            except Exception as error:
                raise UserError(
                    f"wanted a Ray actor of this run, found that it cannot start ({_last_line(error)}): install the "
                    "same weaksam on all machines of the cluster"
                ) from None
            if problem:
                raise UserError(problem)
            assert self._first is not None, "actors are started by start_all"
            check_members([self._first, member])
            self._members[actor] = member
            self._idle.append(actor)

    def _is_done(self, task: Any, actor: Any, part: StorePart, store: WritableStore, deaths: Counter[int]) -> bool:
        """Whether the actor has written the part; False where it died, and another one is on its way."""
        try:
            problem = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            raise RuntimeError(f"in {self._members[actor]}: {_last_line(error)}") from error
        except self._ray.exceptions.RayError:
            member = self._members.pop(actor)
            deaths[part.index] += 1
            if deaths[part.index] >= MOST_DEATHS:
                raise UserError(
                    f"wanted {part.name} of {store.folder}, found that {MOST_DEATHS} actors died computing it, the "
                    f"last on {member.host}: see its memory, and run the same command again, which goes on"
                ) from None
            say(f"ray: actor {member.rank} on {member.host} died, {part.name} goes to another one", error=True)
            self._start()
            return False
        if problem:
            raise UserError(problem)
        return True


def _await_parts(store: WritableStore) -> None:
    """Wait until this machine sees the parts that others have written; `UserError` where it does not."""
    deadline = time.monotonic() + SEE_SECONDS
    while missing := store.missing_parts():
        if time.monotonic() > deadline:
            raise UserError(
                f"wanted the parts of {store.folder} that Ray actors wrote, found {len(missing)} of them missing: put "
                "out=DIR on a disk that all machines share"
            )
        time.sleep(_STEP_SECONDS)


def _last_line(error: Exception) -> str:
    """The last line of an error of Ray, which says what happened in the actor."""
    return str(error).strip().splitlines()[-1].strip()[:300] if str(error).strip() else type(error).__name__
