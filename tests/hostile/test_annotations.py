"""Hostile annotations and results, COCO, YOLO and VOC: refused in one sentence, or read as they are meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.commands import on_results, on_truth
from tests.hostile.harness import Case, check, coco_results, coco_truth, sound

RING = [4, 4, 24, 4, 24, 24, 4, 24]
HUGE = {"1e9": 1e9, "1e308": 1e308, "minus 1e9": -1e9, "1e6": 1e6, "1e400": float("inf"), "nan": float("nan")}


def truth_case(name: str, **annotation: Any) -> Case:
    """A COCO file whose first annotation has other values."""

    def build(folder: Path) -> None:
        (folder / "odd.json").write_text(json.dumps(coco_truth(**annotation)))

    return Case(f"coco: {name}", build, on_truth("odd.json"), "odd.json")


def results_case(name: str, **result: Any) -> Case:
    """Results whose first entry has other values."""

    def build(folder: Path) -> None:
        (folder / "odd.json").write_text(json.dumps(coco_results(**result)))

    return Case(f"results: {name}", build, on_results("odd.json"), "odd.json")


CASES = [
    *(truth_case(f"polygon {name}", segmentation=[[*RING[:-1], value]]) for name, value in HUGE.items()),
    *(truth_case(f"box {name}", bbox=[4, 4, value, 20]) for name, value in HUGE.items() if value != 1e6),
    sound(truth_case("a box that reaches far out is clipped", bbox=[4, 4, 1e6, 20])),
    *(results_case(f"polygon {name}", segmentation=[[*RING[:-1], value]]) for name, value in HUGE.items()),
    *(results_case(f"box {name}", bbox=[4, value, 5, 20]) for name, value in HUGE.items() if value != 1e6),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_annotation(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
