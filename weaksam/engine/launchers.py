"""Start the processes of one run by torchrun or by Slurm: ``python -m weaksam.engine.launchers``.

``tools/dist_train.sh``, ``tools/slurm_train.sh`` and ``weaksam run --launcher`` start processes by this file alone.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from weaksam.config import UserError
from weaksam.engine.distributed import PROCESSES, SLURM
from weaksam.engine.helper_processes import processors
from weaksam.terminal import say

GPUS_PER_NODE, CPUS_PER_TASK = 8, 5
"""What Slurm is asked for where the environment does not say."""
USAGE = (
    "wanted 'torchrun NUM PROGRAM ...' or 'slurm PARTITION NUM PROGRAM ...' ('-' for Slurm's own partition), found "
    "{found}: see docs/distributed.md"
)


@dataclass(frozen=True)
class Start:
    """A command, as its words, and the environment that it runs in."""

    words: tuple[str, ...]
    environment: Mapping[str, str]

    def run_instead(self) -> NoReturn:
        """Run the command, and end this process with its exit code; `UserError` where it is missing.

        It ends with this process where that is interrupted.
        """
        name = self.words[0]
        if shutil.which(name, path=self.environment.get("PATH")) is None:
            raise UserError(
                f"wanted the command {name} to start processes with, found none on PATH: run on a machine of the "
                "cluster, or take another launcher (local, torchrun, ray)"
            )
        process = subprocess.Popen(list(self.words), env=dict(self.environment))
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        sys.exit(code if code >= 0 else 128 - code)


def by_torchrun(program: Sequence[str], num: int, environment: Mapping[str, str] = os.environ) -> Start:
    """Start ``program`` (what follows ``python``) in ``num`` processes of this machine, one per GPU.

    The cores are divided among them where ``OMP_NUM_THREADS`` is not set.
    """
    threads = environment.get("OMP_NUM_THREADS") or str(math.ceil(processors() / num))
    words = (sys.executable, "-m", "weaksam.engine.torchrun", "--standalone", f"--nproc_per_node={num}", *program)
    return Start(words, {**environment, "OMP_NUM_THREADS": threads, PROCESSES: str(num)})


def by_slurm(
    program: Sequence[str], num: int, partition: str | None = None, environment: Mapping[str, str] = os.environ
) -> Start:
    """Start ``program`` (what follows ``python``) in ``num`` tasks of a Slurm cluster, one per GPU.

    ``GPUS_PER_NODE`` (8), ``CPUS_PER_TASK`` (5), ``SRUN_ARGS`` (words for ``srun``) and ``PYTHON`` come from the
    environment; without ``partition`` Slurm takes its own. `UserError` where a number is none.
    """
    per_node = min(num, _number(environment, "GPUS_PER_NODE", GPUS_PER_NODE))
    options = {
        "partition": partition,
        "ntasks": num,
        "ntasks-per-node": per_node,
        "gres": f"gpu:{per_node}",
        "cpus-per-task": _number(environment, "CPUS_PER_TASK", CPUS_PER_TASK),
        "kill-on-bad-exit": 1,
    }
    words = ["srun", *(f"--{name}={value}" for name, value in options.items() if value is not None)]
    words += shlex.split(environment.get("SRUN_ARGS", ""))
    # These say that the ranks of the tasks count: those of a bare srun do not
    ranks = {SLURM: "1", PROCESSES: str(num)}
    return Start((*words, environment.get("PYTHON", sys.executable), "-u", *program), {**environment, **ranks})


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    """The whole number of 1 or more in a variable; ``default`` where it is not set."""
    text = environment.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"wanted a whole number of 1 or more in the environment's {name}, found {text!r}: mend it")
    return int(text)


def main(arguments: Sequence[str]) -> int:
    """Start what the command line says and end with its exit code; returns 2 after a sentence where it cannot."""
    launcher, *rest = arguments or [""]
    partition = rest.pop(0) if launcher == "slurm" and rest else "-"
    try:
        if launcher not in ("torchrun", "slurm") or len(rest) < 2 or not rest[0].isdecimal() or int(rest[0]) < 1:
            raise UserError(USAGE.format(found=shlex.join(arguments) or "nothing"))
        num, program = int(rest[0]), rest[1:]
        if launcher == "slurm":
            by_slurm(program, num, None if partition == "-" else partition).run_instead()
        by_torchrun(program, num).run_instead()
    except UserError as error:
        say(f"weaksam: {error}", error=True)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
