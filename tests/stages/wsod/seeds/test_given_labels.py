"""Seeds of what was labelled: given boxes, points and counts in the place of what a rule chose, by hand."""

import torch

from tests.helpers import context, draw_discs, instances
from weaksam.models.wsod.head import HeadOutput
from weaksam.models.wsod.targets import Seeds
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.examples import TrainingExample, make_example
from weaksam.stages.wsod.losses import branch_targets
from weaksam.stages.wsod.seeds.given_labels import of_present, trusted_seeds
from weaksam.structures.masks import rle_from_mask
from weaksam.structures.photo_labels import NO_LABELS, Marks, PhotoLabels

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [22, 2, 28, 8], [40, 0, 50, 10]])
"""RoI 1 is much of RoI 0, RoI 3 a part of RoI 2."""
SCORES = torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.2, 0.1], [0.1, 0.3], [0.3, 0.6]])


def seeds(*rows: tuple[int, int, float]) -> Seeds:
    """Seeds from rows of RoI, label and weight."""
    roi, label, weight = zip(*rows, strict=True)
    return Seeds(torch.tensor(roi), torch.tensor(label), torch.tensor(weight))


def as_rows(result: Seeds) -> list[tuple[int, int, float]]:
    """RoI, label and weight of each seed."""
    return [(int(roi), int(label), round(float(weight), 4)) for roi, label, weight in zip(*result, strict=True)]


def point(x: float, y: float, label: int) -> Marks:
    """The mark of one point."""
    return Marks.of_points(torch.tensor([[x, y]]), torch.tensor([label]))


def test_a_given_box_is_seeded_by_the_roi_that_overlaps_it_most_with_weight_1():
    labels = PhotoLabels(instances([(0, 0, 10, 9)], [0]), (None,))  # IoU 0.9 with RoI 0, 8/9 with RoI 1
    chosen = seeds((1, 0, 0.7), (4, 1, 0.6))
    assert as_rows(trusted_seeds(chosen, SCORES, BOXES, labels)) == [(4, 1, 0.6), (0, 0, 1.0)]
    far = PhotoLabels(instances([(60, 0, 70, 9)], [0]), (None,))  # where no RoI is
    assert as_rows(trusted_seeds(chosen, SCORES, BOXES, far)) == as_rows(chosen)
    assert trusted_seeds(chosen, SCORES, BOXES, NO_LABELS) is chosen


def test_a_point_forces_a_seed_that_holds_it():
    labels = PhotoLabels(marks=point(25, 5, 0))
    chosen = seeds((0, 0, 0.7), (4, 1, 0.5))
    # RoI 2 scores better than RoI 3; it weighs as the best seed of the photo
    assert as_rows(trusted_seeds(chosen, SCORES, BOXES, labels)) == [(0, 0, 0.7), (4, 1, 0.5), (2, 0, 0.7)]
    # Of class 1 it is RoI 3; without another seed it weighs 1, and padding is no seed
    padding = seeds((0, -1, 0.9))
    of_other = PhotoLabels(marks=point(25, 5, 1))
    assert as_rows(trusted_seeds(padding, SCORES, BOXES, of_other)) == [(3, 1, 1.0)]


def test_counts_and_complete_photos_bound_the_seeds():
    chosen = seeds((0, 0, 0.7), (2, 0, 0.9), (4, 1, 0.5))
    assert as_rows(trusted_seeds(chosen, SCORES, BOXES, PhotoLabels(counts={0: 1}))) == [(2, 0, 0.9), (4, 1, 0.5)]
    assert as_rows(trusted_seeds(chosen, SCORES, BOXES, PhotoLabels(complete=True))) == []
    complete = PhotoLabels(instances([(20, 0, 30, 10)], [0]), (None,), complete=True)
    assert as_rows(trusted_seeds(chosen, SCORES, BOXES, complete)) == [(2, 0, 1.0)]
    assert as_rows(trusted_seeds(chosen, SCORES[:0], BOXES[:0], complete)) == as_rows(chosen)


def test_every_branch_learns_what_was_labelled():
    tags = torch.tensor([1.0, 1.0])
    output = HeadOutput(SCORES, (torch.zeros(5, 3), torch.zeros(5, 3)), ())
    labels = PhotoLabels(instances([(20, 0, 30, 10)], [0]), (None,), complete=True)
    for rule in ("mist", "oicr", "oicr_top", "pcl", "scores"):
        example = TrainingExample(None, BOXES, tags, torch.tensor([0, 1]), seeds((0, 0, 1.0)), labels=labels)  # type: ignore[arg-type]
        for targets in branch_targets(output, example, WsodSettings(seeds=rule)):
            assert targets.target.tolist() == [0, 0, 1, 0, 0] and targets.weight.tolist() == [1.0] * 5
    # Of the rules with clue seeds the first branch's know of the labels when the example is made
    example = TrainingExample(None, BOXES, tags, torch.tensor([0, 1]), seeds((4, 1, 0.5)), labels=labels)  # type: ignore[arg-type]
    first, second = branch_targets(output, example, WsodSettings(seeds="relocation"))[:2]
    assert first.target.tolist() == [0, 0, 0, 0, 2] and second.target.tolist() == [0, 0, 1, 0, 0]


def test_class_map_seeds_know_of_the_labels(tmp_path):
    sample = context(tmp_path, draw_discs(tmp_path)).train.samples[0]
    masks = torch.zeros(2, 20, 40, dtype=torch.bool)
    masks[0, :10, :10], masks[1, :10, 20:30] = True, True
    row = {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]), "rles": [rle_from_mask(mask) for mask in masks]}
    maps = (torch.tensor([0]), masks[:1].float())
    settings, tags = WsodSettings(seeds="class_maps"), torch.tensor([1.0, 0.0])
    assert as_rows(make_example(sample, row, tags, maps, settings).clue_seeds) == [(0, 0, 1.0)]
    labels = PhotoLabels(marks=point(25, 5, 0), complete=True)
    assert as_rows(make_example(sample, row, tags, maps, settings, labels).clue_seeds) == [(1, 0, 1.0)]


def test_values_of_tags_are_scores_of_all_classes():
    assert of_present(torch.tensor([[0.5, 0.2]]), torch.tensor([0, 2]), 4).tolist() == [
        [0.5, 0.0, 0.20000000298023224, 0.0]
    ]
