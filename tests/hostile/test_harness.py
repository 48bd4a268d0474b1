"""The harness itself: whatever a command may do wrong is seen."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from tests.hostile.harness import Outcome, assert_harmless, outcomes_of


def misbehave(command: list[str]) -> None:
    """Do what the command says, in a process of its own."""
    {
        "crash": lambda: ctypes.string_at(0),
        "eat": lambda: bytearray(8 << 30),
        "write": lambda: Path("beside.txt").write_text("x"),
        "start": lambda: subprocess.run(["true"], check=True),
        "colour": lambda: print("\x1b[31mred"),
        "raise": lambda: [][1],
        "out": lambda: (Path("out").mkdir(), Path("out/x").write_text("x"), print("well")),
        "leave": lambda: os._exit(7),
    }[command[0]]()


def outcome_of(deed: str, folder: Path) -> Outcome:
    return outcomes_of([[deed]], folder, misbehave)[0]


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    assert outcome_of("crash", tmp_path).code == -11
    assert "MemoryError" in outcome_of("eat", tmp_path).stderr
    assert "subprocess.Popen" in outcome_of("start", tmp_path).started[0]
    assert "IndexError" in outcome_of("raise", tmp_path).stderr
    for deed in ("crash", "eat", "start", "colour", "raise", "leave"):
        with pytest.raises(AssertionError):
            assert_harmless(outcome_of(deed, tmp_path))
    with pytest.raises(AssertionError, match=r"beside\.txt"):
        outcome_of("write", tmp_path)


def test_what_is_right_is_let_pass(tmp_path: Path) -> None:
    first, second = outcomes_of([["out"], ["crash"]], tmp_path, misbehave)
    assert_harmless(first)
    assert (first.code, first.stdout, second.code) == (0, "well\n", -11)
