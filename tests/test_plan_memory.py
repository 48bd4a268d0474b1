"""What a stage does before its first photo takes little memory beside the list of photos."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from tests.helpers import ROOT

ROWS = 100_000
MIB = 10.0
"""100 MiB for a million photos; on fewer rows what every plan takes once would weigh too much."""


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("plan_memory")


@pytest.mark.parametrize("name", ["clues", "proposals", "wsod, retrain: detections", "wsis: pseudo masks, detections"])
def test_planning_adds_little_to_the_list(benchmark: ModuleType, name: str) -> None:
    dataset = benchmark.loaded_list(ROWS)
    peak, _ = benchmark.measured(dataset, benchmark.PLANS[name])
    assert 0 < peak < MIB
