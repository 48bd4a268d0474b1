"""Connect to a Ray cluster, or start one on this machine, and say in one sentence why that does not work."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import socket
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

from weaksam.config import UserError
from weaksam.engine.helper_processes import processors
from weaksam.pipeline.ray.settings import ActorSettings

_STORE_BYTES = 80 << 20
"""Shared memory of a cluster that is started here: next to nothing is sent."""
_CONNECT_SECONDS = 10.0
_ATTEMPTS = 4


@contextlib.contextmanager
def connected(settings: ActorSettings, threads: int) -> Iterator[ModuleType]:
    """The module ``ray``, connected to the cluster of ``settings`` in the block.

    A cluster that is started here has room for ``settings.num`` actors of ``threads`` cores each.

    Raises:
        UserError: Ray is not installed, the address does not answer or is no address, or its cluster is of another
            version of Ray or Python.
    """
    ray = _imported()
    handler = signal.getsignal(signal.SIGTERM)
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "weaksam"}
    try:
        with _problems_named(settings.address):
            if settings.address is None:
                cores = max(processors(), threads * (settings.num or 1))
                local = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
                _start(ray, {**common, **local})
            else:
                _require_answer(settings.address)
                ray.init(address=settings.address, **common)
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process without a word
        yield ray
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)


def actor_resources(ray: ModuleType, settings: ActorSettings, device: str, threads: int) -> tuple[int, dict[str, int]]:
    """How many actors to start, and the GPUs and CPUs that each takes of the cluster.

    One per GPU where the ``device`` of the run allows and the cluster has some, else one per ``threads`` cores. Raises
    `UserError` where the cluster is smaller than what ``settings`` ask for, or ``device`` names a single GPU.
    """
    if device not in ("auto", "cuda", "cpu", "mps"):
        raise UserError(
            f"wanted device=auto, cuda or cpu with Ray, which gives each actor a GPU of its own, found {device}: set "
            "one of them"
        )
    totals = ray.cluster_resources()
    num_gpus, num_cpus = int(totals.get("GPU", 0)), int(totals.get("CPU", 0))
    if device == "cuda" and num_gpus == 0:
        raise UserError("wanted a Ray cluster with GPUs for device=cuda, found none: set device=auto or cpu")
    if device in ("auto", "cuda") and num_gpus > 0:
        num = num_gpus if settings.num is None else settings.num
        if num > num_gpus:
            raise UserError(
                f"wanted {num} actors with a GPU each, found {num_gpus} in the Ray cluster: give --workers {num_gpus}"
            )
        return num, {"num_gpus": 1, "num_cpus": 1}
    room = num_cpus // threads
    num = max(1, room) if settings.num is None else settings.num
    if num > room:
        raise UserError(
            f"wanted {num} actors of {threads} cores each, found {num_cpus} cores in the Ray cluster: give --workers "
            f"{max(1, room)}, or fewer threads (threads=N)"
        )
    return num, {"num_gpus": 0, "num_cpus": threads}


def threads_of_actors(settings: ActorSettings, threads: int | None) -> int:
    """Threads of torch in each actor: ``threads`` as set, or this machine's divided among the actors that share it."""
    if threads is not None:
        return threads
    sharing = 1 if settings.address is not None else settings.num or 1
    return max(1, math.floor(torch.get_num_threads() / sharing))


def _start(ray: ModuleType, options: dict[str, Any]) -> None:
    """Start a cluster on this machine; again where it was too busy for the half minute that Ray waits for itself."""
    for attempt in range(_ATTEMPTS):
        try:
            ray.init(address="local", **options)
            return
        except Exception as error:
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == _ATTEMPTS - 1:
                raise


def _imported() -> ModuleType:
    """The module ``ray``; it sends nobody figures about its use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"wanted Ray for --launcher ray, found it not installed ({error}): pip install 'weaksam[ray]', here and on "
            "every machine of the cluster"
        ) from None
    return ray


def _require_answer(address: str) -> None:
    """`UserError` where nobody listens at ``HOST:PORT``: Ray itself tries for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535 or "/" in host:
        raise UserError(
            f"wanted --address HOST:PORT of a Ray cluster's head, or auto, found {address!r}: 'ray status' on a "
            "machine of the cluster says it"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"wanted a Ray cluster at {address}, found no answer ({error.strerror or error}): start one by 'ray start "
            "--head', or correct --address"
        ) from None


@contextlib.contextmanager
def _problems_named(address: str | None) -> Iterator[None]:
    """`UserError` where Ray cannot start or join in the block."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # Ray's own kinds differ from version to version; it may end the process
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        where = "on this machine" if address is None else f"at {address}"
        versions = re.findall(r"Ray: (\S+) Python: (\S+)", text)
        if "ersion mismatch" in text and len(versions) == 2:
            (ray, python), (ray_here, python_here) = versions
            raise UserError(
                f"wanted the Ray {ray_here} and Python {python_here} of this process in the cluster {where}, found Ray "
                f"{ray} and Python {python}: install the same on all machines"
            ) from None
        if "AuthToken" in text:
            raise UserError(
                f"wanted to join the Ray cluster {where}, found that it asks for another token: set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to that of the cluster's head"
            ) from None
        raise UserError(
            f"wanted a Ray cluster {where}, found that it cannot be used ({text[:300] or type(error).__name__}): see "
            "'ray status', and docs/distributed.md"
        ) from None
