"""Which photos are suggested for true boxes, by hand."""

import torch

from tests.helpers import instances
from weaksam.evaluation.label_trust import BoxTrust
from weaksam.evaluation.suggestions import as_rows, chosen_photos, reason, suggestion

# Two photos along each of two axes, and one between them
FEATURES = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 1.0]])


def test_doubt_first_then_what_is_unlike() -> None:
    # Row 1 is doubted most; then 3 (0.8 x 1) before 0 (0.9 x 0) and 4 (1.0 x 0.29); then 4, half way of both
    doubts = torch.tensor([0.9, 0.95, 0.2, 0.8, 0.94])
    assert chosen_photos(doubts, FEATURES, 3) == [1, 3, 4]
    assert chosen_photos(doubts, FEATURES, 1) == [1]


def test_photos_with_boxes_are_not_chosen_and_keep_their_neighbours_away() -> None:
    doubts = torch.tensor([0.9, 0.95, 0.2, 0.8, 0.9])
    given = torch.tensor([False, True, False, False, False])
    assert chosen_photos(doubts, FEATURES, 2, given) == [3, 4]
    assert chosen_photos(doubts, FEATURES, 9, given) == [3, 4, 0, 2]
    assert chosen_photos(doubts, FEATURES, 2, torch.zeros(5, dtype=torch.bool)) == chosen_photos(doubts, FEATURES, 2)


def test_without_doubt_the_photos_that_are_unlike() -> None:
    assert chosen_photos(torch.zeros(5), FEATURES, 2) == [0, 2]
    assert chosen_photos(torch.zeros(0), torch.zeros(0, 2), 3) == []


def test_reasons_name_tags_without_a_box_and_the_least_trusted_box() -> None:
    believed = instances([[0, 0, 10, 10], [4, 5, 20, 30]], [0, 1], scores=[0.9, 0.8])
    trust = BoxTrust(torch.tensor([0.9, 0.5]), torch.tensor([0.8, float("nan")]))
    of = suggestion("a.jpg", 1.0, (0, 1, 2), believed, trust)
    assert of.missing == (2,) and of.objects.labels.tolist() == [1, 0]
    classes = ("cat", "dog", "cow")
    assert reason(of, classes) == "no box of cow; trust 0.50 in the dog at 4, 5, 20, 30"
    (row,) = as_rows([of], classes)
    assert row["without_box"] == ["cow"] and [entry["trust"] for entry in row["objects"]] == [0.5, 0.72]
    bare = suggestion("b.jpg", 0.0, (), instances([]), None)
    assert reason(bare, classes) == "unlike the others" and as_rows([bare], classes)[0]["objects"] == []
    unknown = suggestion("c.jpg", 0.5, (0,), instances([[0, 0, 2, 2]], [0]), None)
    assert reason(unknown, classes) == "nothing is known of the cat at 0, 0, 2, 2"
