"""The benchmark of surroundings: best boxes move as the weak detector's do, and its table's lines."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import ROOT
from weaksam.models.wsod.extent import CellMap, CellSums, ExtentSettings
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances

PART, WHOLE, LOOSE = [40.0, 40, 80, 120], [40.0, 40, 120, 120], [20.0, 20, 140, 140]


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("surroundings")


def photo(surroundings, number: int, tags: tuple[int, ...] = (0,)):
    """A photo of 160 x 160 pixels in cells of 10, whose object is `WHOLE`; the best score is its left half's or its."""
    features = torch.zeros(2, 16, 16)
    features[0, 4:12, 4:12] = 1.0 if tags else 0.0
    features[1] = torch.rand(16, 16, generator=torch.Generator().manual_seed(number))
    sample = Sample(f"{number}.png", Path("x"), (160, 160), tags, None, number)
    scores = torch.tensor([[0.9 if number == 0 else 0.7], [0.8], [0.1]])
    return surroundings.Photo(
        sample, CellMap(features, (0.1, 0.1), (160, 160)), torch.tensor([PART, WHOLE, LOOSE]), scores
    )


def test_a_best_box_on_a_part_moves_to_the_whole(surroundings) -> None:
    photos = [photo(surroundings, number) for number in range(8)] + [photo(surroundings, 8, tags=())]
    sums = CellSums(1, 2, folds=4)
    for number, shown in enumerate(photos):
        sums.add(shown.map, shown.best(), number % 4)
    of_folds, _ = sums.regressions(0.1)
    boxes = surroundings.moved(photos, of_folds, ExtentSettings(share=1, power=1, least_iou=0.5))
    assert len(boxes) == 8 and boxes["0.png", 0].tolist() == WHOLE
    assert surroundings.moved(photos, of_folds, ExtentSettings(share=0))["0.png", 0].tolist() == PART


def test_a_line_of_the_table(surroundings) -> None:
    assert surroundings.row("x", torch.tensor([0.5, 0.8, 0.2, 0.75])) == "| x | 0.750 | 0.500 | 0.562 |"


def test_boxes_are_told_apart_by_the_way_they_moved(surroundings) -> None:
    truth = Instances(torch.tensor([WHOLE]), torch.tensor([0]))
    run = SimpleNamespace(true_train=SimpleNamespace(truths={"0.png": truth, "1.png": truth}))
    before = {("0.png", 0): torch.tensor(PART), ("1.png", 0): torch.tensor(WHOLE)}
    after = {("0.png", 0): torch.tensor(WHOLE), ("1.png", 0): torch.tensor(WHOLE)}
    assert list(surroundings.direction_rows(run, before, after)) == [
        "| enlarged (1): before | 1.000 | 0.000 | 0.500 |",
        "| enlarged: after | 1.000 | 1.000 | 1.000 |",
        "| left (1): before | 1.000 | 1.000 | 1.000 |",
        "| left: after | 1.000 | 1.000 | 1.000 |",
    ]
