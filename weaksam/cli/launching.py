"""Define the options that say which processes a run has, and start them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from weaksam.terminal import is_silent

LAUNCHERS = ("local", "torchrun", "slurm", "ray")

LauncherOption = Annotated[
    str | None,
    typer.Option(
        "--launcher",
        help="who starts further processes: local (this one, helpers for the proposals), torchrun (one per GPU of this "
        "machine, training together), slurm (the same by srun), ray (what is computed photo by photo, on a cluster)",
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="how many processes; ray and torchrun: one per GPU by default")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="of a running Ray cluster (HOST:PORT, or auto); else one is started here"),
]


@dataclass(frozen=True)
class Launching:
    """Which processes a command asks for; ``words`` are that command, without the options for it."""

    launcher: str | None = None
    workers: int | None = None
    address: str | None = None
    words: Sequence[str] = ()


def launched(settings: Any, launching: Launching) -> tuple[Any, Any]:
    """The settings that this process runs with, and the Ray actors it asks for (None: none).

    torchrun and Slurm start the command again in each of their processes, and this one ends with their exit code.
    Raises `UserError` for a launcher that there is not, or that misses something.
    """
    from weaksam import pipeline
    from weaksam.config import UserError
    from weaksam.engine.distributed import require_gpus, this_process
    from weaksam.engine.launchers import by_slurm, by_torchrun

    launcher, workers, address = launching.launcher, launching.workers, launching.address
    if launcher is not None and launcher not in LAUNCHERS:
        raise UserError(f"wanted a launcher ({', '.join(LAUNCHERS)}), found {launcher!r}: name one of them")
    if address is not None and launcher != "ray":
        raise UserError("wanted --launcher ray with --address, found another or none: add it, or remove --address")
    outer = this_process()
    if outer.together and launcher not in (None, "local"):
        raise UserError(
            f"wanted one launcher, found --launcher {launcher} in a process that {outer.launcher} started: remove one"
        )
    program = ["-m", "weaksam", *launching.words]
    if launcher == "torchrun":
        by_torchrun(program, require_gpus(settings.device, workers)).run_instead()
    if launcher == "slurm":
        if workers is None:
            raise UserError("wanted a number of tasks for --launcher slurm, found none: give --workers N, one per GPU")
        by_slurm(program, workers).run_instead()
    if launcher == "ray":
        return settings, pipeline.ActorSettings(workers, address)
    return settings if workers is None else settings.model_copy(update={"workers": workers}), None


def command_words(command: str, arguments: Sequence[str] | None, **options: Any) -> list[str]:
    """The words of a command: its name, ``CONFIG key=value ...`` and the options that were given, --quiet among them.

    A flag is given where it is true.
    """
    options["quiet"] = is_silent()
    given = {f"--{name}": value for name, value in options.items() if value is not None and value is not False}
    words = (word for name, value in given.items() for word in ((name,) if value is True else (name, str(value))))
    return [command, *(arguments or ()), *words]
