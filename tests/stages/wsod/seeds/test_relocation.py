"""Relocalisation: scores by other photos against a plain loop, photos that agree, and tags without a new seed."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.helpers import instances
from weaksam.models.wsod.targets import Seeds
from weaksam.stages.wsod.seeds.class_maps import region_support
from weaksam.stages.wsod.seeds.relocation import (
    Regions,
    _Grams,
    best_of_tags,
    relocate,
    scores_by_others,
    seeds_of_values,
)
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.photo_labels import NO_LABELS, PhotoLabels


def photo(features: Tensor, boxes: Tensor, tags: list[int]) -> Regions:
    return Regions(features, boxes, torch.tensor(tags, dtype=torch.int64))


def random_photos(num: int, generator: torch.Generator, classes: int = 3) -> list[Regions]:
    photos = []
    for place in range(num):
        regions = 3 + place % 4
        corner = 30 * torch.rand(regions, 2, generator=generator)
        boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(regions, 2, generator=generator)], dim=1)
        tags = sorted(torch.randperm(classes, generator=generator)[: 1 + place % 2].tolist())
        photos.append(photo(torch.randn(2, regions, 4, generator=generator), boxes, tags))
    return photos


def plain_scores(photos: list[Regions], seeds: list[Seeds], classes: int, folds: int, ridge: float) -> list[Tensor]:
    """Row by row, in double precision: for each class and fold the rows that count, then least squares."""
    scores = [torch.zeros(len(regions.boxes), classes, dtype=torch.float64) for regions in photos]
    for fold in range(folds):
        for label in range(classes):
            rows, wanted = [], []
            for index, (regions, seed) in enumerate(zip(photos, seeds, strict=True)):
                if index % folds == fold:
                    continue
                iou = pairwise_iou(regions.boxes, regions.boxes)
                of_label = [roi for roi, at in zip(seed.roi.tolist(), seed.label.tolist(), strict=True) if at == label]
                for region in range(len(regions.boxes)):
                    overlap = max((iou[region, roi].item() for roi in of_label), default=0.0)
                    nearest = max((iou[region, roi].item() for roi in seed.roi.tolist()), default=0.0)
                    if label in regions.present.tolist() and overlap == 0 and nearest < 0.5:
                        continue
                    for view in regions.features:
                        rows.append([*view[region].tolist(), 1.0])
                        wanted.append(1.0 if overlap >= 0.5 and overlap >= nearest else 0.0)
            if not any(wanted):
                continue
            x, y = torch.tensor(rows, dtype=torch.float64), torch.tensor(wanted, dtype=torch.float64)
            gram = x.T @ x
            shrink = ridge * gram.diagonal()[:-1].mean() * torch.eye(len(gram), dtype=torch.float64)
            shrink[-1, -1] = 0
            weights = torch.linalg.solve(gram + shrink, x.T @ y)
            for index in range(fold, len(photos), folds):
                ones = torch.ones(len(photos[index].boxes), 1, dtype=torch.float64)
                mean = torch.cat([photos[index].features.double().mean(dim=0), ones], dim=1)
                scores[index][:, label] = mean @ weights
    return scores


@pytest.mark.parametrize("folds", [2, 3])
def test_scores_equal_a_plain_loop_over_rows(folds: int) -> None:
    generator = torch.Generator().manual_seed(folds)
    photos = random_photos(9, generator)
    seeds = [
        best_of_tags(torch.rand(len(one.boxes), len(one.present), generator=generator), one.present) for one in photos
    ]
    found = scores_by_others(photos, seeds, 3, _Grams(photos, folds), ridge=0.1, foreground_iou=0.5)
    for one, wanted in zip(found, plain_scores(photos, seeds, 3, folds, 0.1), strict=True):
        torch.testing.assert_close(one.double(), wanted, rtol=1e-3, atol=1e-4)


def objects(num: int, start_right: int, noise: float = 0.05) -> tuple[list[Regions], list[Tensor]]:
    """Photos of class 0 or 1: region 0 looks like its class, region 1 is a part of it, region 2 is background.

    The first values name the object in ``start_right`` photos and the background in the others.
    """
    generator = torch.Generator().manual_seed(0)
    looks = torch.eye(5)
    photos, start = [], []
    for place in range(num):
        label = place % 2
        features = torch.stack([looks[label], looks[2 + label], looks[4]]) + noise * torch.randn(
            2, 3, 5, generator=generator
        )
        boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 8, 8], [40, 40, 60, 60]])
        photos.append(photo(features, boxes, [label]))
        start.append(torch.tensor([[1.0], [0.2], [0.1]] if place < start_right else [[0.1], [0.2], [1.0]]))
    return photos, start


def test_photos_agree_on_what_the_tag_looks_like() -> None:
    photos, start = objects(24, start_right=16)
    assert [int(one.argmax()) for one in start].count(0) == 16
    values = relocate(photos, start, 2, rounds=4, folds=4)
    assert [int(one.argmax()) for one in values] == [0] * 24
    assert all((one >= 0).all() for one in values)
    assert relocate(photos, start, 2, rounds=0)[20] is start[20]


def test_a_part_of_the_seed_is_a_counterexample() -> None:
    photos, start = objects(24, start_right=24)
    values = relocate(photos, start, 2, rounds=1, folds=4)
    assert all(one[0, 0] > 0.5 and one[1, 0] < 0.2 for one in values)


def test_labelled_boxes_teach_the_photos_whose_start_is_wrong() -> None:
    photos, start = objects(24, start_right=0)
    assert [int(one.argmax()) for one in relocate(photos, start, 2)] == [2] * 24
    nothing = [NO_LABELS] * 24
    labels = [PhotoLabels(instances([(0, 0, 20, 20)], [place % 2]), (None,)) for place in range(8)]
    taught = relocate(photos, start, 2, labels=[*labels, *nothing[8:]])
    assert [int(one.argmax()) for one in taught] == [0] * 24
    same = zip(relocate(photos, start, 2, labels=nothing), relocate(photos, start, 2), strict=True)
    assert all(torch.equal(labelled, plain) for labelled, plain in same)


def test_regions_that_touch_no_seed_are_counterexamples_on_a_complete_photo() -> None:
    photos, _ = objects(4, start_right=4)
    seeds = [best_of_tags(torch.tensor([[1.0], [0.0], [0.0]]), one.present) for one in photos]
    complete = [replace(one, complete=True) for one in photos]
    scores = scores_by_others(complete, seeds, 2, _Grams(complete, 2), ridge=0.1, foreground_iou=0.5)
    everything = [
        replace(one, boxes=one.boxes * 0 + torch.tensor([[0.0, 0, 20, 20], [0, 0, 8, 8], [0, 0, 9, 9]]))
        for one in photos
    ]
    wanted = plain_scores(everything, seeds, 2, 2, 0.1)  # region 2 touches the seed there, and no row is left out
    for of_photo, plain in zip(scores, wanted, strict=True):
        torch.testing.assert_close(of_photo.double(), plain, rtol=1e-3, atol=1e-4)


def test_a_tag_without_a_seed_leaves_its_photo_out() -> None:
    photos, start = objects(8, start_right=8)
    elsewhere = PhotoLabels(instances([(90, 90, 99, 99)], [0]), (None,), counts={0: 1})  # where no region is
    values = relocate(photos, start, 2, rounds=1, labels=[elsewhere, *[NO_LABELS] * 7])
    assert values[2].argmax() == 0 and bool(values[2].isfinite().all())


def test_values_stay_where_no_photo_scores_them() -> None:
    photos, start = objects(3, start_right=3)
    alone = relocate(photos[:1], start[:1], 2, rounds=3)  # no other photo to learn from
    assert torch.equal(alone[0], start[0])
    nothing = photo(torch.zeros(2, 0, 5), torch.zeros(0, 4), [1])
    untagged = photo(torch.randn(2, 2, 5), torch.tensor([[0.0, 0, 5, 5], [9, 9, 20, 20]]), [])
    values = relocate([*photos, nothing, untagged], [*start, torch.zeros(0, 1), torch.zeros(2, 0)], 2, rounds=2)
    assert values[3].shape == (0, 1) and values[4].shape == (2, 0)
    assert len(seeds_of_values(nothing, values[3], 2, share=0.7, nms_iou=0.3).roi) == 0
    assert len(seeds_of_values(untagged, values[4], 2, share=0.7, nms_iou=0.3).roi) == 0
    assert relocate([], [], 2) == []


def test_further_seeds_reach_a_share_of_the_best_and_overlap_little() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [40, 40, 50, 50]])
    one = photo(torch.zeros(1, 4, 2), boxes, [0, 2])
    values = torch.tensor([[0.8, 0.0], [0.7, 0.0], [0.6, 0.0], [0.2, 0.5]])
    seeds = seeds_of_values(one, values, 3, share=0.7, nms_iou=0.3)
    found = dict(zip(zip(seeds.roi.tolist(), seeds.label.tolist(), strict=True), seeds.weight.tolist(), strict=True))
    assert found == pytest.approx({(0, 0): 1.0, (2, 0): 0.75, (3, 2): 1.0})
    none = seeds_of_values(one, torch.zeros(4, 2), 3, share=0.7, nms_iou=0.3)
    assert len(none.roi) == 0  # no region is worth anything


def test_support_adds_the_contrast_of_overlapping_regions() -> None:
    iou = torch.tensor([[1.0, 0.3, 0.5], [0.3, 1.0, 0.0], [0.5, 0.0, 1.0]])
    contrast = torch.tensor([[0.4, 0.0], [0.0, 1.0], [0.2, 0.0]])
    found = region_support(contrast, iou)
    assert found.flatten().tolist() == pytest.approx([0.5, 0.3, 0.12, 1.0, 0.4, 0.0])
    assert region_support(torch.zeros(0, 2), torch.zeros(0, 0)).shape == (0, 2)
