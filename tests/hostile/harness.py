"""Run commands on a hostile file in a process of its own, with limits, and report all that it did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers import PROCESSES
from tests.hostile.process import OUT, STARTING, run_commands, weaksam

WALL_SECONDS = 120
"""Seconds until a process that waits for something is ended."""


@dataclass(frozen=True)
class Outcome:
    """What one command did: its exit code, its two outputs, what it wrote outside of `OUT` and what it started."""

    command: Sequence[str]
    code: int
    stdout: str
    stderr: str
    written: Sequence[str]
    started: Sequence[str]

    @property
    def text(self) -> str:
        """Both outputs, for a message."""
        return f"weaksam {' '.join(self.command)} -> {self.code}\n{self.stdout[-3000:]}\n{self.stderr[-3000:]}"


@dataclass(frozen=True)
class Case:
    """A hostile input: ``build`` writes it into a folder, ``commands`` read it there, and ``says`` is in each answer.

    The folder holds `write_dataset`'s small sound dataset; ``commands`` are arguments of ``weaksam``, with paths
    relative to it. With ``sound`` the commands are to end well (exit code 0, or 1 with remarks of ``data check``), and
    else to refuse the input: exit code 2 with one sentence, or the lines of ``data check`` with exit code 1.
    """

    name: str
    build: Callable[[Path], None]
    commands: Sequence[Sequence[str]]
    says: str
    sound: bool = False


def sound(case: Case) -> Case:
    """``case`` as one that commands read well; a run, which would go on for long, is left out."""
    return replace(case, commands=[command for command in case.commands if command[0] != "run"], sound=True)


def written(name: str, value: Any) -> Callable[[Path], None]:
    """Write JSON (or text or bytes as they are) into the file ``name`` of a case's folder."""

    def build(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")

    return build


def write_dataset(folder: Path) -> None:
    """Two photos of 40 x 30 in ``photos`` (a.png, b.png), ``tags.csv``, ``truth.json`` and ``results.json``, sound."""
    (folder / "photos").mkdir(parents=True)
    for seed, name in enumerate(("a", "b")):
        noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "photos" / f"{name}.png")
    (folder / "tags.csv").write_text("file,tags\na.png,cat\nb.png,dog\n")
    (folder / "truth.json").write_text(json.dumps(coco_truth()))
    (folder / "results.json").write_text(json.dumps(coco_results()))


def sparse(path: Path, num_bytes: int = 6 << 30) -> None:
    """Write a file that has ``num_bytes`` zero bytes and takes no room on disk."""
    with path.open("wb") as file:
        file.truncate(num_bytes)


def coco_truth(**annotation: Any) -> dict[str, Any]:
    """A COCO instances file of both photos with a cat and a dog; ``annotation`` changes the first annotation."""
    images = [{"id": i, "file_name": f"{name}.png", "width": 40, "height": 30} for i, name in ((1, "a"), (2, "b"))]
    first = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], **annotation}
    second = {"id": 2, "image_id": 2, "category_id": 2, "bbox": [5, 5, 10, 10]}
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": [first, second], "categories": categories}


def coco_results(**result: Any) -> list[dict[str, Any]]:
    """COCO results of a cat and a dog; ``result`` changes the first."""
    first = {"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.9, **result}
    return [first, {"image_id": 2, "category_id": 2, "bbox": [5, 5, 10, 10], "score": 0.8}]


def check(case: Case, folder: Path) -> list[Outcome]:
    """Assert that every command of ``case`` answers as it should, and does nothing else; returns what they did."""
    write_dataset(folder)
    case.build(folder)
    outcomes = outcomes_of(case.commands, folder)
    for outcome in outcomes:
        assert_harmless(outcome)
        answer = outcome.stdout + outcome.stderr
        assert case.says in answer, outcome.text
        if case.sound:
            assert outcome.code in (0, 1) and not outcome.stderr.startswith("weaksam:"), outcome.text
        elif outcome.command[:2] == ("data", "check") and outcome.code == 1:
            assert not outcome.stderr and case.says in outcome.stdout, outcome.text
        else:
            assert outcome.code == 2, outcome.text
            assert [line for line in outcome.stderr.splitlines()[:-1] if line.startswith("weaksam:")] == []
            assert outcome.stderr.splitlines()[-1].startswith("weaksam: "), outcome.text
    return outcomes


def assert_harmless(outcome: Outcome) -> None:
    """Assert that a command ended by itself, said only what a terminal can take, wrote to `OUT` alone, ran nothing."""
    text = outcome.stdout + outcome.stderr
    assert outcome.code in (0, 1, 2), outcome.text
    assert "Traceback" not in text and "nobody foresaw" not in text and "Error:" not in text, outcome.text
    assert len(text) < 20_000_000, outcome.text
    assert [letter for letter in text if not (letter.isprintable() or letter in "\n\t")] == [], outcome.text
    assert not outcome.written and not outcome.started, (outcome.written, outcome.started, outcome.text)


# The process


def outcomes_of(
    commands: Sequence[Sequence[str]], folder: Path, call: Callable[[list[str]], None] = weaksam
) -> list[Outcome]:
    """Run commands one after the other in ``folder``, each by ``call``, in one process forked for them.

    A command that ends the process, or is ended by its limits, has the exit code that Python gives: -11 is a
    segmentation fault, -24 the end of the processor time. So have the commands after it, which never ran.
    """
    before = _files(folder)
    process = PROCESSES.Process(
        target=run_commands, args=([list(command) for command in commands], str(folder), call), daemon=True
    )
    process.start()
    process.join(WALL_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    outcomes = []
    for number, command in enumerate(commands):
        path = folder / f".{number}.json"
        record = json.loads(path.read_text()) if path.is_file() else {"code": process.exitcode, "events": []}
        outputs = [_text(folder / f".{number}.{name}") for name in ("out", "err")]
        events = [(event, target) for event, target in record["events"]]
        outcomes.append(
            Outcome(
                tuple(command),
                record["code"],
                *outputs,
                [f"{event} {target}" for event, target in events if event not in STARTING],
                [f"{event} {target}" for event, target in events if event in STARTING],
            )
        )
    for path in folder.glob(".[0-9]*"):
        path.unlink()
    changed = sorted({path for path, _ in before ^ _files(folder)})
    assert changed == [], f"{changed} changed by {commands}"
    return outcomes


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="surrogateescape") if path.is_file() else ""


def _files(folder: Path) -> set[tuple[str, int]]:
    """Every file below ``folder`` but for those of `OUT` and of the harness, with the time of its last change."""
    files = (path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != OUT)
    files = (path for path in files if not path.relative_to(folder).parts[0].startswith("."))
    return {
        (os.fsencode(path).decode("utf-8", "replace"), path.lstat().st_mtime_ns) for path in files if path != folder
    }
