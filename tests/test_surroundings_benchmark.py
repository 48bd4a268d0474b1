"""The benchmark of surroundings: contrast of boxes by hand, and a part that gives way to the whole."""

import importlib
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT
from weaksam.structures.dataset import Sample

PART, WHOLE, LOOSE = [40.0, 40, 80, 120], [40.0, 40, 120, 120], [20.0, 20, 140, 140]


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("surroundings")


def photo(surroundings, number: int = 0, tags: tuple[int, ...] = (0,)):
    """A photo of 160 x 160 pixels in cells of 10, whose object is `WHOLE`; the best score is its left half's."""
    features = torch.zeros(2, 16, 16)
    features[0, 4:12, 4:12] = 1.0 if tags else 0.0
    features[1] = torch.rand(16, 16, generator=torch.Generator().manual_seed(number))
    sample = Sample(f"{number}.png", Path("x"), (160, 160), tags, None, number)
    scores = torch.tensor([[0.9], [0.8], [0.1]])
    return surroundings.Photo(sample, features, (0.1, 0.1), torch.tensor([PART, WHOLE, LOOSE]), scores)


def test_cells_of_a_box(surroundings) -> None:
    cells = surroundings.inside(photo(surroundings), torch.tensor(PART)).reshape(16, 16)
    assert cells[4:12, 4:8].all() and cells.sum() == 32


def test_contrast_is_greatest_for_the_whole(surroundings) -> None:
    shown = photo(surroundings)
    part, whole, loose = surroundings.contrast(shown, torch.tensor([1.0, 0.0, 0.0]), shown.boxes).tolist()
    # Read four times as fine, the object's edge is a ramp one cell wide around its 8 x 8 cells
    assert whole > 0.7 and whole > part + 0.1 and whole > loose + 0.2


def test_the_regressions_of_other_photos_find_the_whole(surroundings) -> None:
    photos = [photo(surroundings, number) for number in range(8)] + [photo(surroundings, 9, tags=())]
    weights = surroundings.regressions(photos, 1)
    assert weights.shape == (surroundings.FOLDS, 1, 3) and bool((weights[:, 0, 0] > 5 * weights[:, 0, 1].abs()).all())
    assert surroundings.chosen(photos[0], 0, weights[0, 0], 0.5, 1.0).tolist() == WHOLE
    assert surroundings.chosen(photos[0], 0, weights[0, 0], 0.5, 99.0).tolist() == PART  # the score alone
    assert surroundings.chosen(photos[0], 0, weights[0, 0], 0.9, 1.0).tolist() == PART  # no other overlaps enough
