"""Hostile tags, lists and class names: refused in one sentence, or read as they are meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.commands import IMAGES, on_tags
from tests.hostile.harness import Case, check, written

pytestmark = pytest.mark.slow

MANY = 100_000
DEEP = "[" * 900 + "]" * 900
ROWS = "a.png,cat\nb.png,dog\n"


def csv_case(name: str, content: str | bytes) -> Case:
    return Case(f"csv: {name}", written("odd.csv", content), on_tags("odd.csv"), "odd.csv")


def json_case(name: str, content: str | bytes, file: str = "odd.json") -> Case:
    return Case(f"json: {name}", written(file, content), on_tags(file), file)


COLUMNS = ",".join(f"class {i}" for i in range(MANY))
CSV = [
    csv_case("a cell of 200,000 letters", f"file,tags\na.png,{'x' * 200_000}\nb.png,dog\n"),
    csv_case("a quote that never ends", 'file,tags\na.png,"cat\n' + ROWS * 20_000),
    csv_case("a line of a million letters", "x" * 1_000_000),
    Case(
        "csv: 100,000 columns of flags",
        written("odd.csv", f"file,{COLUMNS}\na.png,1{',0' * (MANY - 1)}\nb.png{',1' * MANY}\n"),
        on_tags("odd.csv")[:1],
        "odd.csv",
        sound=True,
    ),
    csv_case("100,000 columns of text", f"file,{COLUMNS}\na.png{',x' * 5000}\nb.png{',1.5' * 5000}\n"),
    csv_case("flags of 1e400", "file,cat,dog\na.png,1e400,0\nb.png,0,1\n"),
    csv_case("flags of 9,999 digits", f"file,cat,dog\na.png,{'9' * 9999}.5,0\nb.png,0,1\n"),
    csv_case("escapes", "file,tags\na.png,\x1b[31mcat\nb.png,dog\n"),
    csv_case("a photo of escapes", "file,tags\n\x1b]0;x\x07.png,cat\n\u202egnp.b,dog\n"),
    csv_case("a photo that climbs", "file,tags\n../../etc/passwd.png,cat\n/etc/shadow.png,dog\n"),
    csv_case("a photo of 100,000 letters", f"file,tags\n{'a' * 100_000}.png,cat\n"),
    csv_case("nulls", "file,tags\na\0.png,cat\nb.png,dog\n"),
    csv_case("zeros", b"\0" * 100_000),
    csv_case("no UTF-8", b"file,tags\na.png,c\xe9\n"),
    csv_case("a picture", b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
    csv_case("nothing", ""),
    Case(
        "csv: formulas",
        written("odd.csv", "file,tags\na.png,=cmd()\nb.png,dog\n"),
        on_tags("odd.csv")[:1],
        "=cmd()",
        sound=True,
    ),
]
JSON = [
    *(
        json_case(name, text)
        for name, text in {"a number": "7", "a text": '"a"', "null": "null", "true": "true"}.items()
    ),
    json_case("nothing", ""),
    json_case("brackets", "[" * 100_000),
    json_case("900 levels", '{"a.png": ' + DEEP + "}"),
    json_case("a list of numbers", "[1, 2, 3]"),
    json_case("a list of lists", '[["a.png", "cat"]]'),
    json_case("objects without keys", "[{}, {}]"),
    json_case("tags of objects", '{"a.png": {"cat": {"x": 1}}, "b.png": ["dog"]}'),
    json_case("tags of scores", '{"a.png": {"cat": 0.3}, "b.png": ["dog"]}'),
    json_case("tags of nan", '{"a.png": [NaN], "b.png": ["dog"]}'),
    json_case("tags of escapes", '{"a.png": ["c\\u001b[31mat"], "b.png": ["dog"]}'),
    json_case("surrogates", '{"a.png": ["\\ud800"], "b.png": ["dog"]}'),
    json_case("a photo of escapes", '{"\\u001b[2J.png": ["cat"], "c.png": ["dog"]}'),
    json_case("a key twice of 50,000", "{" + "".join(f'"{i}.png": ["x"], ' for i in range(50_000)) + '"7.png": ["y"]}'),
    json_case("a line of brackets", '{"a.png": ["cat"]}\n' + "[" * 100_000, "odd.jsonl"),
    json_case("lines of numbers", "1\n2\n", "odd.jsonl"),
    json_case("a line of 5 MB", '{"file": "a.png", "tags": "' + "x" * 5_000_000 + '", "tags": 1}', "odd.jsonl"),
    json_case("zeros", b"\0" * 1000, "odd.jsonl"),
]


@pytest.mark.parametrize("case", [*CSV, *JSON], ids=lambda case: case.name)
def test_a_tag_file(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# VOC's lists


def lists_case(name: str, **files: str | bytes) -> Case:
    """``VOC/ImageSets/Main`` with the given lists."""

    def build(folder: Path) -> None:
        for stem, content in files.items():
            written(f"VOC/ImageSets/Main/{stem}.txt", content)(folder)

    return Case(f"lists: {name}", build, on_tags("VOC/ImageSets/Main")[:2], "VOC/ImageSets/Main")


LISTS = [
    lists_case("flags that are none", train="a\nb\n", cat_train="a x\nb -1\n"),
    lists_case("flags of 5,000 digits", train="a\nb\n", cat_train=f"a {'9' * 5000}\nb -1\n"),
    lists_case("escapes", train="\x1b[31ma\n", cat_train="\x1b[31ma 7\n"),
    lists_case("a line of a million letters", train="x" * 1_000_000, cat_train="x" * 1_000_000),
    lists_case("no text", train=b"\xff\xfe\x00", cat_train=b"\xff"),
    lists_case("zeros", train=b"\0" * 10_000, cat_train=b"\0" * 10_000),
    lists_case("nothing", train="", cat_train=""),
]


@pytest.mark.parametrize("case", LISTS, ids=lambda case: case.name)
def test_lists_of_images(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# Lists and classes of `weaksam eval`

EVAL = ("eval", "--truth", "truth.json", "--detections", "results.json", *IMAGES)


def option_case(name: str, option: str, content: str | bytes, says: str = "odd.txt") -> Case:
    return Case(f"{option} {name}", written("odd.txt", content), [(*EVAL, option, "odd.txt")], says)


OPTIONS = [
    option_case("zeros", "--list", b"\0" * 1000),
    option_case("escapes", "--list", "\x1b[31ma\n"),
    option_case("a million letters", "--list", "x" * 1_000_000),
    option_case("nothing", "--list", ""),
    option_case("zeros", "--classes", b"\0" * 1000),
    option_case("no UTF-8", "--classes", b"\xff\xfe\x00"),
    option_case("a name twice", "--classes", "cat\ncat\n"),
    Case("--classes of 10,000 letters", lambda folder: None, [(*EVAL, "--classes", "cat," * 2500)], "class names"),
]


@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: case.name)
def test_options_of_measuring(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
