"""Read the command line and call the pipeline; signals are caught before anything slow is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from weaksam.cli import interrupts, pipes

__all__ = ["app", "main", "run_tool"]


def main() -> None:
    """Entry point of the ``weaksam`` command."""
    interrupts.catch_signals()
    from weaksam.cli.commands import app

    _end_with(lambda: app(prog_name="weaksam"))


def run_tool(start: str | None = None, until: str | None = None) -> None:
    """What a script in ``tools/`` does: the stages from ``start``, which needs those before it, to ``until``."""
    interrupts.catch_signals()
    from weaksam.cli.stages import tool

    _end_with(tool(start, until))


def _end_with(command: Callable[[], Any]) -> None:
    """Run a command line and end the process as it ends."""
    try:
        with pipes.as_exit():
            command()
    except SystemExit as end:
        interrupts.leave(pipes.flushed(end))


def __getattr__(name: str) -> Any:
    """``app``, all commands, assembled when it is first asked for (PEP 562)."""
    if name != "app":
        raise AttributeError(f"module 'weaksam.cli' has no attribute {name!r}")
    from weaksam.cli.commands import app

    return app
