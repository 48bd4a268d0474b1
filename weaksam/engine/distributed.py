"""Read which process of a job this is: the one place that knows of ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from weaksam.config import UserError

Launcher = Literal["none", "torchrun", "slurm", "workers"]
HELPER = "WEAKSAM_HELPER"
"""Variable that a run sets for the processes that it starts itself, to their rank."""
SLURM = "WEAKSAM_SLURM"
"""Variable that tools/slurm_train.sh sets for its tasks, to 1."""
PROCESSES = "WEAKSAM_PROCESSES"
"""Variable that both scripts of tools/ set to the number of processes they were asked for."""


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

    Processes share the GPUs of their machine in turn, by their number on it.
    """
    if name != "auto" or launch.local_rank is None or not torch.cuda.is_available():
        return name
    return f"cuda:{launch.local_rank % torch.cuda.device_count()}"


def _number(environment: Mapping[str, str], name: str) -> int:
    """The whole number of 0 or more that a variable holds; `UserError` where it is missing or something else."""
    text = environment.get(name, "")
    if not text.isdecimal():
        raise UserError(
            f"wanted a whole number in the environment's {name}, which the launcher sets, found {text!r}: start the "
            "processes by tools/dist_train.sh or tools/slurm_train.sh"
        )
    return int(text)
