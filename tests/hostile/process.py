"""Run commands of ``weaksam`` in a new process: under limits, and noting what they write and start."""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY = 1 << 30
"""What a process may take beyond the memory of the server that it is forked from, in bytes."""
CPU_SECONDS = 60
"""Seconds of processor time of all commands of a case together: a fuse, far above what any needs."""
OUT = "out"
"""The folder, inside of that of the case, that commands may write to."""
WRITING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
STARTING = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class"}
STARTING |= {"socket.connect", "ctypes.dlopen"}
"""What no command may do because of a file: start programs, load libraries, reach for a network."""


def weaksam(command: list[str]) -> None:
    """Run one command, given by its arguments, as a terminal does."""
    from weaksam.cli.commands import app

    app(command, prog_name="weaksam")


def run_commands(commands: list[list[str]], folder: str, call: Callable[[list[str]], None]) -> None:
    """Set limits, listen to what Python reports of files and programs, run the commands and end the process."""
    os.chdir(folder)
    sys.dont_write_bytecode = True
    _limit()
    events: list[tuple[str, str]] = []
    allowed = (os.path.join(folder, OUT), os.path.join(folder, "."), os.devnull)
    sys.addaudithook(lambda event, arguments: _listen(event, arguments, events, allowed))
    for number, command in enumerate(commands):
        events.clear()
        _redirect(1, f"{folder}/.{number}.out")
        _redirect(2, f"{folder}/.{number}.err")
        try:
            call(command)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException as error:  # a command's own guard should have caught it
            traceback.print_exception(error)
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        Path(f"{folder}/.{number}.json").write_text(json.dumps({"code": code, "events": list(events)}))
    os._exit(0)


def _limit() -> None:
    size = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    memory = int(size.split()[1]) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _redirect(descriptor: int, path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, descriptor)
    os.close(file)


def _listen(event: str, arguments: tuple[Any, ...], events: list[tuple[str, str]], allowed: tuple[str, ...]) -> None:
    """Note an event that Python reports where a program is started, or a file outside of ``allowed`` is written."""
    if event in STARTING:
        events.append((event, repr(arguments)[:200]))
        return
    writes = event in WRITING
    if event == "open":
        _, mode, flags = arguments
        writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        writes |= isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if not writes:
        return
    paths = [os.fsdecode(path) for path in arguments if isinstance(path, (str, bytes, os.PathLike))]
    paths = paths[:1] if event == "open" else paths
    if any(not os.path.abspath(path).startswith(allowed) for path in paths):
        events.append((event, repr(paths)[:200]))
