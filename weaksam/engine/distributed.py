"""Read which process of a job this is, and let its processes train together: the one place that knows of ranks."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import torchvision

import weaksam
from weaksam.config import UserError
from weaksam.engine.rendezvous import Member, check_members, death_of, meeting
from weaksam.models.ranks import Ranks, ranks, ranks_are

Launcher = Literal["none", "torchrun", "slurm", "workers"]
HELPER = "WEAKSAM_HELPER"
"""Variable that a run sets for the processes that it starts itself, to their rank."""
SLURM = "WEAKSAM_SLURM"
"""Variable that tools/slurm_train.sh sets for its tasks, to 1."""
PROCESSES = "WEAKSAM_PROCESSES"
"""Variable that both scripts of tools/ set to the number of processes they were asked for."""
EXCHANGE_SECONDS = 7200.0
"""How long a process waits for the others: the first one may measure a large test split in between. The death of one
is noticed at once."""
LINGER_SECONDS = 5.0
"""How long the first process, which failed, waits for the others to notice."""


@dataclass(frozen=True)
class Launch:
    """Which of the processes that were started together this one is; alone it has rank 0 of 1."""

    launcher: Launcher = "none"
    rank: int = 0
    """Number among all processes of the job."""
    world_size: int = 1
    """Number of processes of the job; 1 for the first process of a run that starts helpers of its own."""
    local_rank: int | None = None
    """Number among the processes of this machine; None where it is alone."""

    @property
    def together(self) -> bool:
        """Whether a launcher or another process started it; it then starts no helpers of its own."""
        return self.launcher != "none"

    @property
    def trains_along(self) -> bool:
        """Whether it computes every training step together with the others, instead of helping with stores alone."""
        return self.world_size > 1


def this_process(environment: Mapping[str, str] = os.environ) -> Launch:
    """The place of this process in its job, by an explicit launcher alone.

    These are torchrun (which tools/dist_train.sh calls), tools/slurm_train.sh, and a run that starts helpers. Ranks
    that are merely in the environment, as in every task of a bare ``srun``, do not count: see `unused_rank`.

    Raises:
        UserError: Slurm started another number of tasks than was asked for, or a launcher's variable is no number.
    """
    if HELPER in environment:
        rank = _number(environment, HELPER)
        return Launch("workers", rank, 1, rank)
    if "TORCHELASTIC_RUN_ID" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return _of_all(Launch("torchrun", *(_number(environment, name) for name in names)), environment)
    if SLURM in environment:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        return _of_all(Launch("slurm", *(_number(environment, name) for name in names)), environment)
    return Launch()


def _of_all(launch: Launch, environment: Mapping[str, str]) -> Launch:
    """The same launch; `UserError` where its processes are not as many as were asked for."""
    wanted = launch.world_size if PROCESSES not in environment else _number(environment, PROCESSES)
    if wanted != launch.world_size:
        raise UserError(
            f"wanted {wanted} processes, found {launch.world_size} that {launch.launcher} started together: see what "
            "it says above, as a process that finds no other one would do all the work alone"
        )
    return launch


def unused_rank(environment: Mapping[str, str] = os.environ) -> str:
    """A sentence about a rank in the environment that counts for nothing as no launcher set it; empty without one."""
    if this_process(environment).together:
        return ""
    for name, number in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if name in environment and environment.get(number, "1") != "1":
            return (
                f"found {name}={environment[name]} and {number}={environment[number]} in the environment, but neither "
                "of weaksam's launchers: this process runs on its own; start processes that share a run by "
                "tools/dist_train.sh or tools/slurm_train.sh"
            )
    return ""


def own_device(name: str, launch: Launch) -> str:
    """The GPU of this process for ``auto`` where several run on a machine; every other name as it is.

    Helpers share the GPUs of their machine in turn, by their number on it. Raises `UserError` where processes that
    train together are more than the GPUs of their machine.
    """
    if name != "auto" or launch.local_rank is None or not torch.cuda.is_available():
        return name
    num_gpus = torch.cuda.device_count()
    if launch.trains_along and launch.local_rank >= num_gpus:
        raise UserError(
            f"wanted a GPU for each process, found process {launch.local_rank + 1} of a machine that has {num_gpus}: "
            "start as many processes a machine as it has GPUs, or set device=cpu"
        )
    return f"cuda:{launch.local_rank % num_gpus}"


def require_gpus(device: str, num: int | None) -> int:
    """How many processes train together on this machine: ``num``, or one per GPU.

    Raises `UserError` where ``num`` is more than the GPUs that ``device`` lets them take in turn, or where it is None
    and there is no GPU.
    """
    on_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    num_gpus = torch.cuda.device_count() if on_gpus else 0
    if num is None and num_gpus == 0:
        raise UserError("wanted a number of processes, found no GPU to start one for each: give --workers N")
    if num is not None and on_gpus and num > num_gpus:
        raise UserError(
            f"wanted at most as many processes as GPUs of this machine, found {num} for {num_gpus}: start fewer, or "
            "set device=cpu"
        )
    return num_gpus if num is None else num


def job_name(environment: Mapping[str, str] = os.environ) -> str:
    """What the launcher calls this start of the job: the same in all its processes, letters and digits alone."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID")
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(environment.get(name, "") for name in names)).strip("-") or "job"


@functools.cache
def code_fingerprint() -> str:
    """SHA-256, in hex, over the package's own source files and the versions of torch and torchvision."""
    digest = hashlib.sha256(f"{torch.__version__} {torchvision.__version__}".encode())
    package = Path(weaksam.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} ".encode() + path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def training_together(
    launch: Launch, out: Path, settings: str, timeout: float = EXCHANGE_SECONDS, job: str | None = None
) -> Iterator[Ranks]:
    """Let the processes of ``launch`` train together in the block: `ranks` then gives all of them.

    They meet by a file in ``out``; NCCL exchanges what lies on a GPU, gloo what lies on the CPU. A process alone, and a
    helper, goes on as it is, and so do processes that train together already. ``settings`` is their fingerprint.

    Raises:
        UserError: a process is not met, differs in settings or code, or dies; of several processes that fail the first
            one says so, the others end with a `SystemExit`.
    """
    if not launch.trains_along or ranks().size > 1:
        yield ranks()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    limit = datetime.timedelta(seconds=timeout)
    rank, size = launch.rank, launch.world_size
    with meeting(out, job or job_name(), rank, size) as store, _first_failure_speaks(store, rank, size):
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        try:
            fingerprints = {"settings": settings, "code or torch": code_fingerprint()}
            group = Ranks(rank, size)
            members: list[Member] = group.of_all(Member.of_this_process(rank, fingerprints))
            with _deaths_named(members), ranks_are(group):
                check_members(members)
                yield group
                group.wait()  # the store is the first one's
        finally:
            dist.destroy_process_group()


@contextlib.contextmanager
def _deaths_named(members: list[Member]) -> Iterator[None]:
    """`UserError` that names the process that died where an exchange in the block fails."""
    try:
        yield
    except RuntimeError as error:  # of torch: its backends have no more special kind
        if not _is_of_exchange(error):
            raise
        raise UserError(
            f"wanted all {len(members)} processes to the end, found that {death_of(members)}: run the same command "
            "again, which goes on from the last saved state"
        ) from None


@contextlib.contextmanager
def _first_failure_speaks(store: dist.Store, rank: int, size: int) -> Iterator[None]:
    """Let one process alone report what ends all of them; the others end with a `SystemExit`.

    The first process, which holds the store, waits some seconds for the others to end before it does.
    """
    try:
        yield
    except UserError:
        first = _first_to_fail(store)
        deadline = time.monotonic() + LINGER_SECONDS
        while rank == 0 and int(store.add("failures", 0)) < size and time.monotonic() < deadline:
            time.sleep(0.1)
        if not first:
            raise SystemExit(1) from None
        raise


def _is_of_exchange(error: RuntimeError) -> bool:
    """Whether an exchange between processes failed, as gloo and NCCL say it."""
    if isinstance(error, dist.DistError):
        return True
    return bool(re.search(r"gloo|nccl|connection (closed|reset)|broken pipe|socket|peer", str(error), re.IGNORECASE))


def _first_to_fail(store: dist.Store) -> bool:
    """Whether no other process has failed before; so too where the store is gone with the first process."""
    try:
        return int(store.add("failures", 1)) == 1
    except RuntimeError:
        return True


def _number(environment: Mapping[str, str], name: str) -> int:
    """The whole number of 0 or more that a variable holds; `UserError` where it is missing or something else."""
    text = environment.get(name, "")
    if not text.isdecimal():
        raise UserError(
            f"wanted a whole number in the environment's {name}, which the launcher sets, found {text!r}: start the "
            "processes by tools/dist_train.sh or tools/slurm_train.sh"
        )
    return int(text)
