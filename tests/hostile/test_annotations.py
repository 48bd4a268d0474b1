"""Hostile annotations and results, COCO, YOLO and VOC: refused in one sentence, or read as they are meant."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.commands import on_results, on_truth
from tests.hostile.harness import Case, check, coco_results, coco_truth, sound, written

pytestmark = pytest.mark.slow

RING = [4, 4, 24, 4, 24, 24, 4, 24]
HUGE = {"1e9": 1e9, "1e308": 1e308, "minus 1e9": -1e9, "1e6": 1e6, "1e400": float("inf"), "nan": float("nan")}
NUMBERS = {name: value for name, value in HUGE.items() if name != "1e6"}
RUNS = {
    "longer than the size": {"size": [30, 40], "counts": [0, 2000]},
    "shorter than the size": {"size": [30, 40], "counts": [0, 20]},
    "negative": {"size": [30, 40], "counts": [-5, 1205]},
    "huge": {"size": [30, 40], "counts": [10**30, 1]},
    "of a huge size": {"size": [10**6, 10**6], "counts": [10**12]},
    "of a size of 1e400": {"size": [float("inf"), 40], "counts": [1200]},
    "of a size that is a text": {"size": "30x40", "counts": [1200]},
    "of another size": {"size": [60, 80], "counts": [0, 4800]},
    "text of letters that are none": {"size": [30, 40], "counts": "\x01\x02~~"},
    "text that never ends": {"size": [30, 40], "counts": "o" * 100_000},
    "text that is negative": {"size": [30, 40], "counts": "OOO1"},
    "text of great numbers": {"size": [30, 40], "counts": "oooooo0" * 100},
    "empty text": {"size": [30, 40], "counts": ""},
    "missing": {"size": [30, 40]},
    "null": {"size": None, "counts": None},
}
POLYGONS = {
    "ten levels deep": [[[[[[[[[[4, 4, 24, 4, 24, 24]]]]]]]]]],
    "of texts": [["four", "4", "24", "4", "24", "24"]],
    "of nulls": [[None] * 8],
    "of objects": [[{}, {}, {}, {}, {}, {}]],
    "of an odd number": [[1, 2, 3, 4, 5, 6, 7]],
    "as a number": 7,
    "as a text": "4,4,24,4",
    "as true": True,
    "of long digits": [["1" * 5000, 4, 24, 4, 24, 24]],
}
BOXES = {
    "of three numbers": [1, 2, 3],
    "negative": [4, 4, -5, 5],
    "as a text": "4 4 20 20",
    "as a number": 4,
    "of lists": [[4], [4], [20], [20]],
    "of true": [True, True, True, True],
    "as an object": {"x": 1},
}
ENTRIES: dict[str, dict[str, Any]] = {
    "class of a list": {"category_id": [1]},
    "class of an object": {"category_id": {"id": 1}},
    "class of true": {"category_id": True},
    "class of 400 digits": {"category_id": 10**400},
    "image of a list": {"image_id": [1]},
    "image that is unknown": {"image_id": 10**30},
    "image of null": {"image_id": None},
}


def truth_case(name: str, **annotation: Any) -> Case:
    """A COCO file whose first annotation has other values."""
    return Case(f"coco: {name}", written("odd.json", coco_truth(**annotation)), on_truth("odd.json"), "odd.json")


def results_case(name: str, **result: Any) -> Case:
    """Results whose first entry has other values."""
    return Case(f"results: {name}", written("odd.json", coco_results(**result)), on_results("odd.json"), "odd.json")


def section_case(name: str, **sections: Any) -> Case:
    """A COCO file with other sections."""
    content = {**coco_truth(), **sections}
    return Case(f"coco: {name}", written("odd.json", content), on_truth("odd.json"), "odd.json")


NUMBERED = [
    *(truth_case(f"polygon {name}", segmentation=[[*RING[:-1], value]]) for name, value in HUGE.items()),
    *(truth_case(f"box {name}", bbox=[4, 4, value, 20]) for name, value in NUMBERS.items()),
    sound(truth_case("a box that reaches far out is clipped", bbox=[4, 4, 1e6, 20])),
    *(results_case(f"polygon {name}", segmentation=[[*RING[:-1], value]]) for name, value in HUGE.items()),
    *(results_case(f"box {name}", bbox=[4, value, 5, 20]) for name, value in NUMBERS.items()),
    *(results_case(f"score {name}", score=value) for name, value in (("nan", float("nan")), ("1e400", 10**400))),
    *(truth_case(f"runs {name}", segmentation=value) for name, value in RUNS.items()),
    *(results_case(f"runs {name}", segmentation=value) for name, value in RUNS.items()),
    *(truth_case(f"polygon {name}", segmentation=value) for name, value in POLYGONS.items()),
    *(truth_case(f"box {name}", bbox=value) for name, value in BOXES.items()),
    *(truth_case(name, **values) for name, values in ENTRIES.items()),
]


@pytest.mark.parametrize("case", NUMBERED, ids=lambda case: case.name)
def test_numbers_of_an_annotation(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def sized(height: Any, width: Any) -> list[dict[str, Any]]:
    return [{**image, "height": height, "width": width} for image in coco_truth()["images"]]


MANY = 50_000
SECTIONS = [
    section_case("a list as images", images={"id": 1}),
    section_case("texts as images", images=["a.png", "b.png"]),
    section_case("images without a name", images=[{"id": 1}, {"id": 2}]),
    section_case("a name of a list", images=[{"id": 1, "file_name": ["a.png"]}]),
    section_case("a name of 100,000 letters", images=[{"id": 1, "file_name": "a" * 100_000 + ".png"}], annotations=[]),
    section_case("a name of escapes", images=[{"id": 1, "file_name": "\x1b]0;x\x07\u202e\n.png"}], annotations=[]),
    section_case("a name with a null", images=[{"id": 1, "file_name": "a\0.png"}], annotations=[]),
    section_case("a name that climbs", images=[{"id": 1, "file_name": "../../etc/passwd"}], annotations=[]),
    section_case("images of 1e400 pixels", images=sized(float("inf"), float("inf"))),
    section_case("images of 1e9 pixels", images=sized(10**9, 10**9)),
    section_case("numbers as annotations", annotations=[1, 2, 3]),
    section_case("null as annotations", annotations=None),
    section_case("numbers as categories", categories=[1, 2]),
    section_case("a category of escapes", categories=[{"id": 1, "name": "c\x1b[31mat"}, {"id": 2, "name": "dog"}]),
    section_case("a category without a name", categories=[{"id": 1}, {"id": 2, "name": "dog"}]),
    section_case("two categories of a name", categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]),
    section_case(
        "annotations of 2,000 unknown classes, beside as many known",
        categories=[{"id": i, "name": f"class number {i}"} for i in range(2000)],
        annotations=[
            {"id": i, "image_id": 1, "category_id": f"class nunber {i}", "bbox": [1, 1, 5, 5]} for i in range(2000)
        ],
    ),
    sound(
        section_case(
            "50,000 categories",
            categories=[
                {"id": 1, "name": "cat"},
                {"id": 2, "name": "dog"},
                *({"id": i, "name": f"class {i}"} for i in range(3, MANY)),
            ],
        )
    ),
]
DEEP = "[" * 900 + "]" * 900
FILES = {
    "a number": "7",
    "a text": '"images"',
    "null": "null",
    "nothing": "",
    "half": json.dumps(coco_truth())[:200],
    "brackets": "[" * 100_000,
    "900 levels": json.dumps(coco_truth()).replace('"dog"', DEEP),
    "900 levels in an extra key": json.dumps({**coco_truth(), "info": 1}).replace('"info": 1', '"info": ' + DEEP),
    "a number of 10,000 digits": json.dumps(coco_truth()).replace("[4, 4,", "[" + "9" * 10_000 + ", 4,"),
    "a key twice": '{"images": [], "images": [], "annotations": [], "categories": []}',
    "100,000 keys and the last twice": "{" + "".join(f'"k{i}": 1, ' for i in range(100_000)) + '"k99999": 1}',
    "no UTF-8": b'{"images": "\xff\xfe"}',
    "zeros": b"\0" * 100_000,
}
BROKEN = [
    *(
        Case(f"coco: {name}", written("odd.json", content), on_truth("odd.json"), "odd.json")
        for name, content in FILES.items()
    ),
    *(
        Case(f"results: {name}", written("odd.json", content), on_results("odd.json"), "odd.json")
        for name, content in FILES.items()
        if name not in ("a key twice", "100,000 keys and the last twice")
    ),
    Case("results: a list of numbers", written("odd.json", [1, 2]), on_results("odd.json"), "odd.json"),
    Case("results: a list of lists", written("odd.json", [[1], [2]]), on_results("odd.json"), "odd.json"),
    Case(
        "results: of no image",
        written("odd.json", coco_results(image_id="\x1b[2J")),
        on_results("odd.json"),
        "odd.json",
    ),
]


@pytest.mark.parametrize("case", [*SECTIONS, *BROKEN], ids=lambda case: case.name)
def test_a_coco_file(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# YOLO


def yolo_case(
    name: str, line: str | bytes, names: str | bytes = "cat\ndog\n", file: str = "classes.txt", says: str = ""
) -> Case:
    """Labels of which the file of a.png holds ``line``, with a file of class names."""

    def build(folder: Path) -> None:
        written("yolo/a.txt", line)(folder)
        written("yolo/b.txt", "1 0.5 0.5 0.2 0.2\n")(folder)
        written(f"yolo/{file}", names)(folder)

    return Case(f"yolo: {name}", build, on_truth("yolo"), says or (file if line == SOUND_LINE else "yolo/a.txt"))


SOUND_LINE = "0 0.5 0.5 0.5 0.5\n"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{letter}: &{letter} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, letter in zip("abcdefghi", "bcdefghij", strict=True)
)
MANY_KEYS = "names:\n" + "".join(f"  {i}: class {i}\n" for i in range(MANY))
YOLO = [
    *(yolo_case(f"polygon {name}", f"0 0.1 0.1 0.9 0.1 0.9 {value!r}\n") for name, value in HUGE.items()),
    *(yolo_case(f"box {name}", f"0 0.5 0.5 0.5 {value!r}\n") for name, value in HUGE.items()),
    yolo_case("class 1e308", "1e308 0.5 0.5 0.5 0.5\n"),
    yolo_case("class nan", "nan 0.5 0.5 0.5 0.5\n"),
    yolo_case("a number of 10,000 digits", "0 0.5 0.5 0.5 " + "1" * 10_000 + "\n"),
    yolo_case("escapes", "0 0.5 \x1b[31m 0.5\n"),
    yolo_case("a line of a million letters", "0 " + "x" * 1_000_000 + "\n"),
    yolo_case("no text", b"\x89PNG\r\n\x1a\n\0\0\0\xff"),
    yolo_case("zeros", b"\0" * 100_000),
    replace(
        sound(yolo_case("50,000 names", SOUND_LINE, MANY_KEYS, "data.yaml", "yolo")), commands=on_truth("yolo")[:1]
    ),
    yolo_case("names of laughs", SOUND_LINE, LAUGHS + "names: *j\n", "data.yaml"),
    yolo_case("names of themselves", SOUND_LINE, "names: &n [*n, *n]\n", "data.yaml"),
    yolo_case("names of brackets", SOUND_LINE, "names: " + "[" * 10_000, "data.yaml"),
    yolo_case("names of blocks", SOUND_LINE, "".join(" " * i + "a:\n" for i in range(2000)), "data.yaml"),
    yolo_case("names of objects", SOUND_LINE, "names: !!python/object/apply:os.system [touch x]\n", "data.yaml"),
    yolo_case("names of a day that is none", SOUND_LINE, "names: [2024-13-99]\n", "data.yaml"),
    yolo_case("names of a long number", SOUND_LINE, "names: [" + "1" * 10_000 + "]\n", "data.yaml"),
    yolo_case("names of base sixty", SOUND_LINE, "names: [1" + ":59" * 50_000 + "]\n", "data.yaml"),
    yolo_case("names under lists", SOUND_LINE, "? [a]\n: b\n", "data.yaml"),
    yolo_case("names of escapes", SOUND_LINE, 'names: ["c\\e[31mat", "c\\e[31mat"]\n', "data.yaml"),
    yolo_case("names by 1e400", SOUND_LINE, "names: {1e400: cat, .nan: dog}\n", "data.yaml"),
    yolo_case("names by a huge number", SOUND_LINE, "names: {" + "9" * 300 + ": cat}\n", "data.yaml", "yolo/a.txt"),
    yolo_case("names of zeros", SOUND_LINE, b"\0" * 1000, "data.yaml"),
]


@pytest.mark.parametrize("case", YOLO, ids=lambda case: case.name)
def test_yolo(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# VOC


def voc_xml(
    name: str = "cat", box: str = "<xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax>", more: str = ""
) -> str:
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    return f"<annotation>{more}{size}<object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"


def voc_case(name: str, content: str | bytes) -> Case:
    """VOC XML of which the file of a.png holds ``content``."""

    def build(folder: Path) -> None:
        written("xml/a.xml", content)(folder)
        written("xml/b.xml", voc_xml("dog"))(folder)

    return Case(f"voc: {name}", build, on_truth("xml"), "xml/a.xml")


def corners(value: object) -> str:
    return f"<xmin>5</xmin><ymin>5</ymin><xmax>{value}</xmax><ymax>20</ymax>"


ENTITIES = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
BOMB = f'<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa">{ENTITIES}]>'
VOC = [
    *(voc_case(f"box {name}", voc_xml(box=corners(value))) for name, value in NUMBERS.items()),
    voc_case("box of 10,000 digits", voc_xml(box=corners("9" * 10_000))),
    voc_case("a bomb of entities", BOMB + voc_xml("&j;")),
    voc_case("a bomb of entities in UTF-16", (BOMB + voc_xml("&j;")).encode("utf-16")),
    voc_case("an entity of a file", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + voc_xml("&x;")),
    voc_case("an entity of a parameter", '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://localhost/x">%x;]>' + voc_xml()),
    voc_case("100,000 levels", "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>"),
    voc_case("100,000 levels that never end", "<annotation>" + "<a>" * 100_000),
    voc_case("100 MB", b"<annotation>" + b" " * 100_000_000 + b"</annotation>"),
    voc_case("100,000 attributes", "<annotation " + " ".join(f'a{i}="1"' for i in range(100_000)) + "/><x"),
    voc_case("a name of escapes", voc_xml("c&#27;[31mat\u202e")),
    voc_case("a name of a million letters", voc_xml("x" * 1_000_000)),
    voc_case("nothing", ""),
    voc_case("half", voc_xml()[:100]),
    voc_case("another root", "<html><body/></html>"),
    voc_case("an encoding that is none", '<?xml version="1.0" encoding="x-\x1b[31m"?>' + voc_xml()),
    voc_case("an encoding that runs code", '<?xml version="1.0" encoding="rot13"?>' + voc_xml()),
    voc_case("an encoding of bytes", '<?xml version="1.0" encoding="hex"?>' + voc_xml()),
    voc_case("UTF-7", '<?xml version="1.0" encoding="utf-7"?>+ADw-annotation'),
    voc_case("zeros", b"\0" * 100_000),
    voc_case("a picture", b"\x89PNG\r\n\x1a\n\0\0\0\xff"),
    voc_case("two boxes", voc_xml().replace("</object>", f"<bndbox>{corners(9)}</bndbox></object>")),
    voc_case("a number of elements", voc_xml(box=f"<xmin><b>1</b></xmin>{corners(9)[15:]}")),
]


@pytest.mark.parametrize("case", VOC, ids=lambda case: case.name)
def test_voc(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def voc_results_case(name: str, content: str | bytes) -> Case:
    return Case(
        f"voc results: {name}",
        written("comp4/comp4_det_test_cat.txt", content),
        on_results("comp4"),
        "comp4_det_test_cat.txt",
    )


VOC_RESULTS = [
    *(voc_results_case(f"box {name}", f"a 0.9 4 4 {value!r} 20\n") for name, value in NUMBERS.items()),
    voc_results_case("no numbers", "a x y z 4 4\n"),
    voc_results_case("escapes", "\x1b[31m 0.9 4 4 20 x\n"),
    voc_results_case("a line of a million letters", "x" * 1_000_000),
    voc_results_case("no text", b"\xff\xfe\0"),
]


@pytest.mark.parametrize("case", VOC_RESULTS, ids=lambda case: case.name)
def test_voc_results(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
