"""Define the options that commands share, read settings from them, and end a user's mistake with one sentence."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from weaksam import terminal
from weaksam.cli import interrupts, pipes
from weaksam.terminal import say

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [key=value]...", help="a YAML file, then settings that override it"),
]
Images = Annotated[Path | None, typer.Option(help="folder of training photos (JPEG, PNG, WebP or BMP)")]
Tags = Annotated[
    Path | None,
    typer.Option(help="what is in each photo: CSV, JSON, JSONL, one folder per class, or VOC ImageSets/Main"),
]
Out = Annotated[Path | None, typer.Option(help="folder for everything the run makes")]
Seed = Annotated[int | None, typer.Option(help="the one seed of the run")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress and no notes: only the result, and errors")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON, all else to the errors")]
EXIT_CODES = (
    (0, "done"),
    (1, "faults were found (verify, data check, doctor), or an error that nobody foresaw"),
    (2, "the command, its settings or its data cannot be used; one sentence says why"),
    (128 + signal.SIGINT, "interrupted (Ctrl-C); the same command resumes"),
    (pipes.CODE, "nobody reads the output any more"),
    (128 + signal.SIGTERM, "terminated; the same command resumes"),
)
"""What each exit code of ``weaksam`` means, in order."""
_LONGEST = 2000
"""Most characters of a sentence about an error."""


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with a user's mistake ending in one sentence and exit code 2, and Ctrl-C in exit code 130.

    The command gets the option ``--quiet``, see `weaksam.terminal.quiet`; with its own ``--json`` all that is said
    besides goes to the errors.

    A command whose output nobody reads any more ends without a word, with exit code 141, as others in a pipe do.
    An error that nobody foresaw ends in a sentence too, with exit code 1. With ``WEAKSAM_DEBUG=1`` in the environment
    both keep their traceback. After a signal no other error counts, and no success either: it may follow from the
    signal.
    """

    @functools.wraps(function)
    def guard(*args: Any, quiet: bool = False, **kwargs: Any) -> Any:
        try:
            with interrupts.raised(), contextlib.ExitStack() as modes:
                if quiet:
                    modes.enter_context(terminal.quiet())
                if kwargs.get("json"):
                    modes.enter_context(terminal.aside())
                result = function(*args, **kwargs)
        except BaseException as error:
            number = interrupts.received() or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
            code = _ended_by(error) if number is None else _interrupted(number)
            raise typer.Exit(code) from None
        if (number := interrupts.received()) is not None:
            raise typer.Exit(_interrupted(number))
        return result

    of_function = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    guard.__signature__ = of_function.replace(parameters=[*of_function.parameters.values(), option])  # type: ignore[attr-defined]
    guard.__annotations__ = {**function.__annotations__, "quiet": Quiet}
    return guard


def _interrupted(number: int) -> int:
    """The exit code of a command that a signal ended, whose sentence is written."""
    interrupts.say(number)
    return 128 + number


def _ended_by(error: BaseException) -> int:
    """The exit code of a command that ``error`` ended, after its sentence; what is no fault of anybody goes on."""
    if not isinstance(error, Exception) or isinstance(error, typer.Exit) or os.environ.get("WEAKSAM_DEBUG"):
        raise error
    if pipes.reader_left(error):
        pipes.silence()
        return pipes.CODE
    if isinstance(error, (ValueError, OSError)):
        say(f"weaksam: {_sentence(error)}", error=True, style="red")
        return 2
    text = f"{type(error).__name__}: {_sentence(error)}"  # a fault of ours, which a user cannot mend
    say(f"weaksam: an error nobody foresaw ({text}): set WEAKSAM_DEBUG=1 to see where", error=True)
    return 1


def _sentence(error: Exception) -> str:
    """What an error says, in one line of bounded length: a name in it may be as long as a file."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def split_arguments(arguments: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """``[CONFIG] [key=value]...`` -> (config path or None, overrides); anything else is a ``UserError``."""
    from weaksam.config import UserError

    configs = [a for a in arguments or () if "=" not in a]
    if len(configs) > 1:
        raise UserError(
            f"wanted one config file and key=value settings, found {' and '.join(map(repr, configs))}: "
            "write settings as key=value, without spaces around '='"
        )
    return (Path(configs[0]) if configs else None), [a for a in arguments or () if "=" in a]


def load_run_settings(arguments: Sequence[str] | None, **options: Any) -> Any:
    """``RunSettings`` from the command line: YAML, then ``key=value``, then the options that were given."""
    from weaksam.config import UserError, load_settings
    from weaksam.data.text_files import is_utf8, printable
    from weaksam.pipeline.settings import RunSettings

    config, overrides = split_arguments(arguments)
    keys = {"images": "data.train.images", "tags": "data.train.tags", "sam": "segmenter.weights"}
    keys |= {"out": "out", "seed": "seed"}
    overrides += [f"{keys[name]}={value}" for name, value in options.items() if value is not None]
    foreign = next((override for override in overrides if not is_utf8(override)), None)
    if foreign is not None:
        raise UserError(f"wanted settings and paths in UTF-8, found {printable(foreign)!r}: rename that file or folder")
    return load_settings(RunSettings, config, overrides)
