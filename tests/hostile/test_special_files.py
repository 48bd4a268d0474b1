"""Pipes, devices, folders, odd names and damaged records where a file is wanted: one sentence, and nothing waits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.hostile.commands import on_results, on_settings, on_tags, on_truth
from tests.hostile.harness import Case, check, outcomes_of, write_dataset, written

pytestmark = pytest.mark.slow

DEEP = "[" * 900 + "]" * 900


def pipe(name: str) -> Callable[[Path], None]:
    return lambda folder: os.mkfifo(folder / name)


def link(name: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(target)


def folder_at(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).mkdir()


def sparse(name: str) -> Callable[[Path], None]:
    """A file that claims 6 GiB and holds nothing."""

    def build(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(6 << 30)

    return build


READERS: Sequence[tuple[str, Callable[[str], Sequence[Sequence[str]]]]] = [
    ("odd.csv", on_tags),
    ("odd.jsonl", on_tags),
    ("odd.json", on_truth),
    ("results.json2/odd.json", on_results),
    ("odd.yaml", on_settings),
    ("odd.txt", lambda name: [("eval", "--truth", "truth.json", "--detections", "results.json", "--list", name)]),
]
KINDS = {"a pipe": pipe, "a sparse file": sparse, "a link to zeros": lambda name: link(name, "/dev/zero")}
KINDS |= {"a link in a circle": lambda name: link(name, name.rpartition("/")[2])}


def special(name: str, kind: str, commands: Sequence[Sequence[str]]) -> Case:
    def build(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        KINDS[kind](name)(folder)

    return Case(f"{name}: {kind}", build, commands, name)


SPECIAL = [special(name, kind, commands(name)) for name, commands in READERS for kind in KINDS]


@pytest.mark.parametrize("case", SPECIAL, ids=lambda case: case.name)
def test_what_is_no_file(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# Settings


def yaml_case(name: str, content: str | bytes, says: str = "odd.yaml") -> Case:
    return Case(f"yaml: {name}", written("odd.yaml", content), on_settings("odd.yaml"), says)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{letter}: &{letter} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, letter in zip("abcdefghi", "bcdefghij", strict=True)
)
SETTINGS = [
    yaml_case("a number", "7"),
    yaml_case("a list", "[1, 2]"),
    yaml_case("brackets", "out: " + "[" * 100_000),
    yaml_case("900 levels", "out: " + DEEP),
    yaml_case("laughs", LAUGHS),
    yaml_case("itself", "out: &a [*a]"),
    yaml_case("50,000 keys", "".join(f"key{i}: 1\n" for i in range(50_000))),
    yaml_case("a day that is none", "out: 2024-13-99"),
    yaml_case("an object", "out: !!python/object/apply:os.system ['touch x']"),
    yaml_case("escapes", 'out: x\n"\\e[31mkey": 1\n'),
    yaml_case("raw escapes", b"out: \x1b[31m\n"),
    yaml_case("zeros", b"\0" * 1000),
    yaml_case("no UTF-8", b"out: \xff\xfe"),
    yaml_case("a key twice", "out: x\nout: y\n"),
    yaml_case("a number of 10,000 digits", "seed: " + "1" * 10_000),
    yaml_case("base sixty", "seed: 1" + ":59" * 100_000),
    yaml_case("a text of a million letters", "seed: " + "x" * 1_000_000),
    yaml_case("a null in a path", 'data: {train: {images: "a\\0b", tags: x}}\nout: out\n', "a\\x00b"),
    yaml_case("a path of 100,000 letters", f"data: {{train: {{images: {'x' * 100_000}, tags: x}}}}\nout: out\n", "xxx"),
]


@pytest.mark.parametrize("case", SETTINGS, ids=lambda case: case.name)
def test_settings(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# Records of a run

RECORDS = {
    "a number": "7",
    "null": "null",
    "a list": "[1]",
    "900 levels": '{"settings": ' + DEEP + "}",
    "brackets": "[" * 100_000,
    "settings of another shape": '{"settings": [1], "versions": 7}',
    "half": '{"settings": {"out": "o',
    "zeros": "\0" * 1000,
}


def record_case(name: str, content: str) -> Case:
    return Case(
        f"run.json: {name}", written("run/run.json", content), [("report", "run"), ("clues", "eval", "run")], "run"
    )


def manifest_case(name: str, content: str) -> Case:
    def build(folder: Path) -> None:
        written("OUT/wsod/store/s/manifest.json", content)(folder)
        written("OUT/metrics.json", content)(folder)

    return Case(f"manifest.json: {name}", build, on_results("OUT/wsod/store/s"), "OUT/wsod/store/s")


MANIFEST = {"format": 1, "stage": "x", "fingerprint": "f", "columns": {"boxes": "boxes"}, "parts": []}
PART = {"file": "../../../../../truth.json", "rows": 1, "sha256": "0" * 64}
RUNS = [
    *(record_case(name, content) for name, content in RECORDS.items()),
    *(manifest_case(name, content) for name, content in RECORDS.items()),
    manifest_case("a part elsewhere", json.dumps({**MANIFEST, "parts": [PART]})),
    manifest_case("a column of escapes", json.dumps({**MANIFEST, "columns": {"\x1b[31m": "boxes"}})),
    manifest_case("a format of 10,000 digits", json.dumps(MANIFEST).replace(": 1,", ": " + "1" * 10_000 + ",", 1)),
]


@pytest.mark.parametrize("case", RUNS, ids=lambda case: case.name)
def test_records(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# Names of photos

NAMES = [b"caf\xe9.png", b"\x1b[31mred.png", b"two\nlines.png", "gnp.\u202ea.png".encode(), b"a" * 251 + b".png"]


@pytest.mark.parametrize("name", NAMES)
def test_a_photo_of_an_odd_name_keeps_nothing_else_from_being_read(name: bytes, tmp_path: Path) -> None:
    write_dataset(tmp_path)
    os.link(tmp_path / "photos" / "a.png", os.path.join(os.fsencode(tmp_path / "photos"), name))
    case = Case("", lambda folder: None, on_tags("tags.csv")[:1], "2 rows of 2 photos")
    (outcome,) = outcomes_of(case.commands, tmp_path)
    assert outcome.code == 1 and case.says in outcome.stdout, outcome.text
    assert all(letter.isprintable() or letter == "\n" for letter in outcome.stdout), outcome.text
