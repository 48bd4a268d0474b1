"""Background queries where boxes are incomplete: the entries that teach nothing, by hand and by the shared rule."""

import pytest
import torch

from tests.helpers import CPU
from tests.models.detectors.toys import OBJECT, regions, target
from weaksam.models.detectors.dino.losses import matching_losses
from weaksam.models.detectors.negatives import NegativeSettings, unknown_classes
from weaksam.models.query.box_terms import focal_losses
from weaksam.models.query.query_negatives import QueryNegatives
from weaksam.models.query.targets import QueryTargets

TAGS = NegativeSettings(rule="tags")
SIZES = [(50, 100), (100, 100)]


def test_entries_of_unknown_classes_leave_the_loss_of_background_alone():
    labels = torch.tensor([1, -1])
    unknown = torch.tensor([[True, True, False], [True, False, False]])
    whole, known = focal_losses(torch.zeros(2, 3), labels), focal_losses(torch.zeros(2, 3), labels, unknown)
    assert known[0] == whole[0]
    assert known[1].item() == pytest.approx(2 / 3 * whole[1].item())


def of_queries(boxes: list[list[float]], size: tuple[int, int]) -> torch.Tensor:
    """Centre and sides ``(N, 4)`` as shares, of xyxy boxes in pixels."""
    corners = regions(*boxes) / torch.tensor([size[1], size[0]] * 2)
    return torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)


def test_queries_of_two_photos_and_layers_equal_the_rule_of_regions():
    boxes = [[0, 0, 10, 4], [9, 0, 19, 10], [40, 30, 50, 40], [20, 0, 30, 10]]
    photos = [target([OBJECT], [0], [0, 2], None, [[20, 0, 30, 10]], [2]), target([], [], [1])]
    for settings in (TAGS, NegativeSettings(rule="detections")):
        negatives = QueryNegatives.of(settings, None, photos, SIZES, CPU)
        queries = torch.stack([torch.stack([of_queries(boxes, size) for size in SIZES])] * 2)  # two layers
        unknown = negatives.unknown(torch.zeros(2, 2, 4, 3), queries)
        for number, photo in enumerate(photos):
            expected = unknown_classes(regions(*boxes), photo, settings)
            assert unknown[0, number].tolist() == unknown[1, number].tolist() == expected.tolist()


def test_queries_in_an_ignored_box_and_confident_ones():
    inside, far = [12, 2, 18, 8], [60, 30, 80, 50]  # a small part of the ignored box
    photo = target([[0, 0, 30, 30]], [0], [0], crowd=[True])
    queries = of_queries([inside, far], SIZES[0])[None, None]
    logits = torch.tensor([[[[0.0, 0, 0], [2.0, 2.0, 0]]]])  # scores .5 and .88

    def unknown(settings: NegativeSettings, confident: float | None) -> list[list[bool]]:
        negatives = QueryNegatives.of(settings, confident, [photo], SIZES[:1], CPU)
        return negatives.unknown(logits, queries)[0, 0].tolist()

    nowhere = NegativeSettings(rule="detections")
    assert unknown(nowhere, None) == [[True, False, False], [False] * 3]
    assert unknown(nowhere, 0.8) == [[True, False, False], [True, False, False]]  # class 1 is no tag
    assert unknown(NegativeSettings(), 0.9) == [[True] * 3, [False] * 3]  # the ignored box teaches nothing at all


def test_losses_of_a_photo_with_a_missed_object():
    """A query on the missed object of class 0 teaches that it is not of class 1, which is no tag, and no more."""
    photo = target([OBJECT], [0], [0])
    targets = QueryTargets.of([photo], [(100, 100)], CPU)
    boxes = of_queries([OBJECT, [50, 50, 60, 60]], (100, 100))[None, None]
    logits = torch.zeros(1, 1, 2, 2)
    photo["tags"] = photo["tags"][:2]
    negatives = QueryNegatives.of(TAGS, None, [photo], [(100, 100)], CPU)
    plain, rule = matching_losses(logits, boxes, targets), matching_losses(logits, boxes, targets, negatives)
    assert rule.matched.tolist() == [[[True, False]]]
    assert rule.classification[0, 0, 0] == plain.classification[0, 0, 0]
    assert rule.classification[0, 0, 1].item() == pytest.approx(plain.classification[0, 0, 1].item() / 2)
