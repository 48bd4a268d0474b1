"""Targets of a batch: shares, padding, regions to ignore, photos without a box."""

import torch

from tests.helpers import CPU
from weaksam.models.query.targets import QueryTargets


def test_boxes_become_shares_and_regions_to_ignore_are_apart() -> None:
    targets = [
        {
            "boxes": torch.tensor([[0.0, 0, 20, 10], [10, 0, 40, 20.0], [0, 0, 40, 20]]),
            "labels": torch.tensor([2, -1, 1]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    padded = QueryTargets.of(targets, [(20, 40), (8, 8)], CPU)
    assert padded.counts == (2, 0)
    assert padded.labels.tolist() == [[1, 0], [0, 0]]
    assert padded.present.tolist() == [[True, True], [False, False]]
    assert padded.boxes[0].tolist() == [[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 1, 1]]
    assert padded.ignored[:, 0].tolist() == [[0.25, 0, 1, 1], [0, 0, 0, 0]]


def test_a_batch_without_a_box() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    padded = QueryTargets.of([nothing, nothing], [(8, 8)] * 2, CPU)
    assert padded.counts == (0, 0) and padded.boxes.shape == (2, 0, 4) == padded.ignored.shape
    assert padded.labels.shape == (2, 0) == padded.present.shape
