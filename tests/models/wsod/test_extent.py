"""Extent from surroundings: cells and contrast by hand, regressions against a plain least squares, moves of boxes."""

import pytest
import torch

from weaksam.models.wsod.extent import CellMap, CellSums, ExtentSettings, contrast, tightened
from weaksam.structures.instances import Instances

PART, WHOLE, LOOSE = [40.0, 40, 80, 120], [40.0, 40, 120, 120], [20.0, 20, 140, 140]
BOXES = torch.tensor([PART, WHOLE, LOOSE])
SCORES = torch.tensor([[0.9], [0.8], [0.1]])
FOUND = Instances(BOXES[:1], torch.tensor([0]), torch.tensor([0.9]))
TELLS = torch.tensor([[1.0, 0.0, 0.0]])
"""Weights of a class that the first of two features tells."""


def photo(number: int = 0, there: bool = True) -> CellMap:
    """160 x 160 pixels in cells of 10, whose object is `WHOLE`: the first feature is 1 there, the second noise."""
    features = torch.zeros(2, 16, 16)
    features[0, 4:12, 4:12] = float(there)
    features[1] = torch.rand(16, 16, generator=torch.Generator().manual_seed(number))
    return CellMap(features, (0.1, 0.1), (160, 160))


def test_cells_inside_a_box() -> None:
    cells = photo().inside(torch.tensor(PART)).reshape(16, 16)
    assert cells[4:12, 4:8].all() and cells.sum() == 32


def test_contrast_by_hand_of_a_constant_and_of_a_half() -> None:
    flat = CellMap(torch.ones(1, 8, 8), (0.1, 0.1), (80, 80))
    assert contrast(flat, torch.tensor([3.0, 1.0]), torch.tensor([[20.0, 20, 60, 60]]), 0.2).tolist() == [0.0]
    whole = torch.tensor([[0.0, 0, 80, 80]])  # no ring is left: the mean itself
    assert contrast(flat, torch.tensor([3.0, 1.0]), whole, 0.2).tolist() == [4.0]
    assert contrast(flat, torch.tensor([3.0, 1.0]), torch.zeros(0, 4), 0.2).tolist() == []


def test_contrast_is_greatest_for_the_whole() -> None:
    part, whole, loose = contrast(photo(), TELLS[0], BOXES, 0.2).tolist()
    # Read four times as fine, the object's edge is a ramp one cell wide around its 8 x 8 cells
    assert whole > 0.7 and whole > part + 0.1 and whole > loose + 0.2


def test_regressions_are_weighted_least_squares_of_the_other_folds() -> None:
    photos = [photo(number) for number in range(4)] + [photo(9, there=False)]
    sums = CellSums(1, 2, folds=2)
    for number, shown in enumerate(photos):
        best = {} if number == 4 else {0: torch.tensor(PART if number % 2 else WHOLE)}
        sums.add(shown, best, number % 2)
    of_folds, of_all = sums.regressions(ridge=0.0)
    assert of_folds.shape == (2, 1, 3) and of_all.shape == (1, 3)
    for weights, numbers in ((of_folds[0, 0], (1, 3)), (of_folds[1, 0], (0, 2, 4)), (of_all[0], range(5))):
        rows, wanted, weight = [], [], []
        for number in numbers:
            inside = (
                torch.zeros(256) if number == 4 else photos[number].inside(torch.tensor(PART if number % 2 else WHOLE))
            )
            rows.append(photos[number].rows().double())
            wanted.append(inside.double())
            weight.append(torch.full((256,), 0.3 if number == 4 else 1.0).double())
        inside, rows, weight = torch.cat(wanted), torch.cat(rows), torch.cat(weight)
        weight = torch.where(inside > 0, 1 / inside.sum(), weight / (weight * (1 - inside)).sum())
        root = weight.sqrt()
        # Centred targets: the solution of "mean inside minus mean outside" is twice that of targets 1 and -1 over 2
        plain = torch.linalg.lstsq(root[:, None] * rows, root * (2 * inside - 1)).solution
        torch.testing.assert_close(weights.double(), plain, rtol=1e-4, atol=1e-5)


def test_a_class_without_a_box_has_no_contrast() -> None:
    sums = CellSums(2, 2, folds=2)
    sums.add(photo(), {0: torch.tensor(WHOLE)}, 0)
    of_folds, of_all = sums.regressions(0.1)
    assert of_all[1].tolist() == [0, 0, 0] and of_all[0].any()
    assert of_folds[0, 0].tolist() == [0, 0, 0]  # nothing in the other fold
    assert torch.isfinite(of_folds).all()


@pytest.mark.parametrize(("share", "wanted"), [(1.0, WHOLE), (0.5, [40.0, 40, 100, 120]), (0.0, PART)])
def test_a_part_moves_towards_the_whole(share: float, wanted: list[float]) -> None:
    moved = tightened(FOUND, photo(), TELLS, BOXES, SCORES, ExtentSettings(share=share, power=1, least_iou=0.5))
    assert moved.boxes.tolist() == [wanted]
    assert moved.scores is not None and moved.scores.tolist() == FOUND.scores.tolist()


def test_the_score_and_the_overlap_hold_a_box_back() -> None:
    def end(**settings: float) -> list[float]:
        return (
            tightened(FOUND, photo(), TELLS, BOXES, SCORES, ExtentSettings(share=1, **{"least_iou": 0.5, **settings}))
            .boxes[0]
            .tolist()
        )

    assert end(power=99) == PART
    assert end(power=1, least_iou=0.51) == PART  # PART is half of WHOLE
    assert tightened(FOUND, photo(), TELLS, BOXES[2:], SCORES[2:], ExtentSettings(share=1)).boxes.tolist() == [PART]


def test_nothing_stays_nothing() -> None:
    nothing = Instances.empty(scored=True)
    assert len(tightened(nothing, photo(), TELLS, BOXES, SCORES, ExtentSettings())) == 0
    kept = tightened(FOUND, photo(), TELLS, torch.zeros(0, 4), torch.zeros(0, 1), ExtentSettings())
    assert kept.boxes.tolist() == [PART]
