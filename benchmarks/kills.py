"""Kill runs at random moments and at file operations, resume them, and compare all they leave with an unbroken run.

    python benchmarks/kills.py --minutes 20 --seed 0

A toy run through all stages (rendered scenes, seconds long) is started again and again in a process forked from this
one, which has imported everything, so that a restart costs no import. In each series it is stopped several times: by
SIGKILL after a random time, by SIGKILL in front of a random file operation below OUT (a folder made, a file opened for
writing, renamed or removed), by SIGINT, or, with a second process that shares the proposals, by SIGKILL of either. Then
it runs to its end. Every file must be there that an unbroken run leaves, no other, and with the same bytes; only notes
of times may differ. Prints stops by stage; exit code 1 where anything differed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from weaksam import pipeline
from weaksam.cli import interrupts
from weaksam.cli.arguments import guarded
from weaksam.config import load_settings
from weaksam.data.known_photos import known_photos_file
from weaksam.engine.distributed import HELPER
from weaksam.pipeline.settings import RunSettings
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages import STAGE_NAMES
from weaksam.store.store import Store

KINDS = ("random", "file operation", "SIGINT", "first of two", "second of two")
"""Ways to stop a run: after a random time or in front of a file operation (SIGKILL both), and of two processes one."""
PLACES = ("start", *STAGE_NAMES, "between stages", "end")
OWN_WORDS = {"log.jsonl", "run.json", "report.html", "metrics.json", "done.json"}
"""Names of files that tell times and memory: they must be there, their bytes may differ."""
MOST_STOPS = 40
"""Stops in a series at most."""
MOST_OPERATIONS = 60
"""A kill comes in front of one of so many file operations after the start."""
PART_SIZE = 3
"""Photos in a part of a store; 32 in an ordinary run, for which ten times as many photos would be needed."""
PATIENCE = 600.0
"""Seconds after which a process is said to hang."""
_SMALL = {
    "num_epochs": 1,
    "short_side": 64,
    "long_side": 64,
    "fpn_channels": 8,
    "representation": 8,
    "max_boxes": 5,
    "batch_size": 8,
    "rpn_pre_nms": 50,
    "rpn_post_nms": 20,
}
TOY = {
    "threads": 1,
    "workers": 1,
    "device": "cpu",
    "backbone.name": "sam_nano",
    "segmenter.family": "tree",
    "proposals.grid_side": 8,
    "clues.finetune_epochs": 2,
    "clues.long_side": 64,
    "wsod.long_side": 64,
    "wsod.num_proposals": 10,
    "wsod.hidden": 16,
    "wsod.reduced": 8,
    "wsod.num_epochs": 2,
    **{f"{stage}.{name}": value for stage in ("retrain", "wsis") for name, value in _SMALL.items()},
}
"""Settings of the toy run; nothing of it is about the quality of the result."""


@dataclass
class Tally:
    """What was done, and what differed."""

    stops: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Stops by kind and place."""
    series: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def num_stops(self) -> int:
        """Stops of all kinds and places."""
        return sum(self.stops.values())

    def table(self) -> str:
        """Markdown: a row a place, a column a kind."""
        rows = [f"| stopped in | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
        for place in PLACES:
            rows.append(f"| {place} | {' | '.join(str(self.stops[kind, place]) for kind in KINDS)} |")
        rows.append(f"| all | {' | '.join(str(sum(self.stops[kind, p] for p in PLACES)) for kind in KINDS)} |")
        return "\n".join(rows)


def small_parts() -> None:
    """Let every store of this process and of those forked from it have `PART_SIZE` photos in a part."""
    Store.__init__.__kwdefaults__["part_size"] = PART_SIZE


def write_scenes(folder: Path) -> None:
    """Rendered scenes: 6 to train on, which make two parts of a store, and 2 to test on."""
    settings = SceneSettings(size=64, num_classes=2, max_clutter=2, max_distractors=1)
    write_dataset(folder, settings, 2 * PART_SIZE, 2, seed=1)


def toy_settings(scenes: Path, out: Path) -> RunSettings:
    """The toy run on the photos of `write_scenes`."""
    data = [
        f"data.{split}.{key}={scenes / name}"
        for split in ("train", "test")
        for key, name in (("images", split), ("truth", f"instances_{split}.json"))
    ]
    return load_settings(RunSettings, None, [*(f"{name}={value}" for name, value in TOY.items()), *data, f"out={out}"])


# Processes


def fork(body: Callable[[], None], log: Path) -> int:
    """A forked process that runs ``body``, its streams appended to ``log``; its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        body()
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def run_command(settings: RunSettings, rank: int = 0, operation: int | None = None, until: str | None = None) -> None:
    """Body of a process: the run as the command line starts it; killed in front of a file operation of that number."""
    if rank:
        os.environ[HELPER] = str(rank)
    interrupts.catch_signals()
    if operation is not None:
        kill_at(settings.out, operation)
    try:
        guarded(pipeline.run)(settings, until="proposals" if rank else until)
    except BaseException as end:  # the Exit of the command line
        if interrupts.received() is None and not hasattr(end, "exit_code"):
            raise
        os._exit(getattr(end, "exit_code", 1))
    sys.stdout.flush()
    os._exit(0)


def kill_at(out: Path, operation: int) -> None:
    """Let this process kill itself in front of its file operation number ``operation`` (1, 2, ...) below ``out``."""
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if changes_files(event, arguments) and str(arguments[0]).startswith(str(out)):
            count += 1
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def changes_files(event: str, arguments: tuple) -> bool:
    """Whether an event of Python's audit is a file operation that changes something."""
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


def wait(pid: int, seconds: float = PATIENCE) -> int | None:
    """Exit code of a process, negative for a signal, waited for at most ``seconds``; None where it goes on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def cpu_seconds(pid: int) -> float:
    """Seconds of a processor that a running process has used; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    ended = fields[0] in "ZX"
    return 0.0 if ended else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stop_after(pid: int, seconds: float, number: int) -> None:
    """Send signal ``number`` to a process after ``seconds`` of a processor, unless it has ended before."""
    while (used := cpu_seconds(pid)) < seconds:
        if used == 0.0 and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    os.kill(pid, number)


# A series


def place_of(out: Path) -> str:
    """Where a run is or stopped, by its log."""
    events = []
    for line in (out / "log.jsonl").read_bytes().splitlines() if (out / "log.jsonl").exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["event"] == "run begins":
            events = []
        if event["event"] in ("stage begins", "stage ends"):
            ended = event["event"] == "stage ends" and event["finished"]
            events.append(("stage ends" if ended else "stage begins", event["stage"]))  # a signal ends it unfinished
    if not events:
        return "start"
    if events[-1][0] == "stage begins":
        return events[-1][1]
    return "end" if events[-1][1] == STAGE_NAMES[-1] else "between stages"


def stop_run(settings: RunSettings, kind: str, draw: random.Random, seconds: float, tally: Tally, log: Path) -> bool:
    """Start the run and stop it as ``kind`` says; whether it came to its end before."""
    operation = draw.randint(1, MOST_OPERATIONS) if kind == "file operation" else None
    pids = [fork(lambda: run_command(settings, operation=operation), log)]
    if kind.endswith("of two"):
        pids.append(fork(lambda: run_command(settings, rank=1), log))
    if operation is None:
        number = signal.SIGINT if kind == "SIGINT" else signal.SIGKILL
        stop_after(pids[1 if kind == "second of two" else 0], draw.uniform(0.0, seconds), number)
    place = place_of(settings.out) if kind == "second of two" else None
    codes = [wait(pid) for pid in pids]
    wanted = {"SIGINT": 130}.get(kind, -signal.SIGKILL)
    stopped = codes[1 if kind == "second of two" else 0]
    if stopped == wanted:
        tally.stops[kind, place or place_of(settings.out)] += 1
    elif stopped != 0:
        tally.faults.append(f"{kind}: wanted exit code {wanted} or 0, found {stopped}")
    if kind == "second of two" and codes[0] != 0:
        tally.faults.append(f"a killed second process stopped the first one: {codes[0]}")
    if None in codes:
        tally.faults.append(f"{kind}: a process went on for {PATIENCE:.0f} s")
    return codes[0] == 0


def run_series(scenes: Path, out: Path, wanted: dict[str, bytes | None], draw: random.Random, tally: Tally) -> None:
    """Stop a run several times, let it end, and compare its folder with ``wanted``."""
    settings, log = toy_settings(scenes, out), out.with_suffix(".txt")
    num_faults, kinds = len(tally.faults), []
    for _ in range(draw.randint(MOST_STOPS // 4, MOST_STOPS)):
        kinds.append(draw.choices(KINDS[:4], weights=(6, 9, 3, 2))[0])
        if stop_run(settings, kinds[-1], draw, SECONDS / 3, tally, log):
            break
    else:  # the first process goes on to the end, whatever happens to the second
        kinds.append(KINDS[4])
        stop_run(settings, KINDS[4], draw, SECONDS / 6, tally, log)
    if (code := wait(fork(lambda: run_command(settings), log))) != 0:
        tally.faults.append(f"the last run of {kinds} ended with {code}")
    tally.faults += [f"{difference} after {kinds}" for difference in differences(wanted, listing(out))]
    tally.series += 1
    if len(tally.faults) == num_faults:
        shutil.rmtree(out)
        log.unlink(missing_ok=True)
    else:
        print(f"{out}: {tally.faults[num_faults:]}, see {log}", flush=True)


SECONDS = 8.0
"""Seconds of a processor for an unbroken toy run; measured at the start."""


def listing(out: Path) -> dict[str, bytes | None]:
    """Every file and folder below ``out`` by its relative name, with its bytes where they must not differ.

    But for what it remembers of photos, which depends on how long before the run they were written.
    """
    names: dict[str, bytes | None] = {}
    remembered = {known_photos_file(split) for split in ("train", "test")}
    for path in (path for path in out.rglob("*") if path.name not in remembered):
        compared = path.is_file() and path.name not in OWN_WORDS
        names[path.relative_to(out).as_posix()] = path.read_bytes() if compared else None
    return names


def differences(wanted: dict[str, bytes | None], found: dict[str, bytes | None]) -> list[str]:
    """What differs between two listings, in words."""
    missing = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    left = [f"{name} is left over" for name in found.keys() - wanted.keys()]
    other = [f"{name} has other bytes" for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    return sorted(missing + left + other)


def unbroken(scenes: Path, out: Path) -> dict[str, bytes | None]:
    """The listing of a run that nothing stopped; measures its seconds."""
    global SECONDS
    before = os.times()
    code = wait(fork(lambda: run_command(toy_settings(scenes, out)), out.with_suffix(".txt")))
    if code != 0:
        raise RuntimeError(f"the unbroken run ended with {code}: {out.with_suffix('.txt').read_text()}")
    after = os.times()
    SECONDS = after.children_user + after.children_system - before.children_user - before.children_system
    return listing(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill for the given minutes and print the table; 1 where anything differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="begin no series after them")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--keep", type=Path, help="folder for all runs; default: a temporary one")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    small_parts()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    write_scenes(folder / "scenes")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pipeline.run(toy_settings(folder / "scenes", folder / "first"))  # imports whatever is imported on the way
    wanted = unbroken(folder / "scenes", folder / "unbroken")
    draw, tally, end = random.Random(args.seed), Tally(), time.monotonic() + 60 * args.minutes
    while time.monotonic() < end:
        run_series(folder / "scenes", folder / f"series-{tally.series:04d}", wanted, draw, tally)
        print(f"{tally.num_stops} stops in {tally.series} series, {len(tally.faults)} faults", flush=True)
    print(f"\n{tally.table()}\n")
    cost = f"an unbroken run takes {SECONDS:.1f} s of a processor"
    print(f"{tally.num_stops} stops in {tally.series} series; {cost}. What differed:")
    print("\n".join(tally.faults) or "nothing")
    if args.keep is None and not tally.faults:
        shutil.rmtree(folder)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
