"""Where the weak detector detects objects that no pseudo box holds, by hand, and how that reaches the losses."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import context, draw_squares, instances
from weaksam.config import UserError
from weaksam.engine.detectors.augmentation import AugmentSettings
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.doubtful import doubtful_detections, doubtful_regions
from weaksam.models.detectors.negatives import NegativeSettings, unknown_classes
from weaksam.structures.photo_labels import PhotoLabels


def test_detections_of_tagged_classes_without_a_pseudo_box_are_doubtful(tmp_path):
    squares = draw_squares(tmp_path)  # photos 0, 2, 4 have class 0, the others 0 and 1, the last a tag and no object
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [40, 0, 50, 10]]
    detections = {"0.png": instances(boxes, [0, 0, 0, 1], [0.9, 0.4, 0.3, 0.8])}
    detections["1.png"] = instances(boxes, [1, 0, 0, 1], [0.9, 0.04, 0.3, 0.8])
    pseudo_gt = {name: instances(boxes[:1], [0]) for name in detections}
    doubtful = doubtful_detections(detections, pseudo_gt, squares, 0.05)
    assert set(doubtful) == set(squares.image_ids)
    assert doubtful["0.png"].boxes.tolist() == [boxes[2]]  # of the others IoU is 1 and .8, class 1 is no tag
    assert doubtful["1.png"].boxes.tolist() == [boxes[0], boxes[2], boxes[3]]  # the pseudo box is of another class
    assert len(doubtful["2.png"]) == 0
    ignored = {name: boxes.replace(crowd=torch.tensor([True])) for name, boxes in pseudo_gt.items()}
    assert len(doubtful_detections(detections, ignored, squares, 0.05)["0.png"]) == 3  # it holds no detection
    assert [len(of_photo) for of_photo in doubtful_detections({}, {}, squares, 0.0).values()] == [0] * 6


def test_a_complete_photo_is_background_where_it_has_no_box(tmp_path):
    squares = draw_squares(tmp_path)
    pseudo_gt = {"0.png": instances([[4, 6, 30, 32]])}
    photos = TrainingPhotos(squares, pseudo_gt, 64, 96, "retrain", complete={"0.png"}, boxless_as_background=True)
    tags = [photos.plain_frame(number).tags.tolist() for number in range(2)]
    assert tags == [[False, False], [True, True]]  # the classes that may be where no box is
    (target,) = (
        target
        for batch in photos.epoch(0, 1, AugmentSettings(), seed=0)
        for image_id, target in zip(batch.image_ids, batch.targets, strict=True)
        if image_id == "0.png"
    )
    regions = torch.tensor([[40.0, 40, 60, 60]])
    assert not unknown_classes(regions, target, NegativeSettings(rule="tags")).any()
    run = context(tmp_path, squares)
    assert doubtful_regions(run, NegativeSettings(), {}, None, "retrain") == ({}, {})
    labelled = replace(run, labels={"0.png": PhotoLabels(complete=True), "1.png": PhotoLabels(counts={0: 1})})
    assert labelled.complete == {"0.png"}
    assert list(doubtful_regions(labelled, NegativeSettings(), {}, None, "retrain")[1]) == ["complete"]


def test_the_rule_reads_the_weak_detector_or_says_that_there_is_none(tmp_path):
    run = context(tmp_path, draw_squares(tmp_path))
    rule, nothing = NegativeSettings(rule="detections"), SimpleNamespace(detections=lambda split: {})
    for settings in (NegativeSettings(), NegativeSettings(rule="tags")):
        assert doubtful_regions(run, settings, {}, None, "retrain") == ({}, {})
    with pytest.raises(UserError, match=r"retrain.negatives.rule=detections wants .* found no weak detector: take"):
        doubtful_regions(run, rule, {}, None, "retrain")
    regions, inputs = doubtful_regions(run, rule, {}, nothing, "retrain")  # a weak detector that finds nothing
    assert [len(of_photo) for of_photo in regions["doubtful"].values()] == [0] * 6 and set(inputs) == {"doubtful"}
    some = SimpleNamespace(detections=lambda split: {"0.png": instances([[0, 0, 9, 9]], [0], [0.9])})
    assert doubtful_regions(run, rule, {}, some, "retrain")[1] != inputs


def test_tags_and_doubtful_regions_go_with_every_view(tmp_path):
    squares = draw_squares(tmp_path)
    truth = {sample.image_id: sample.truth for sample in squares}
    photos = TrainingPhotos(squares, truth, 64, 96, "test", regions={"doubtful": truth})
    views = AugmentSettings(smallest_scale=0.5)
    for epoch in range(2):
        for batch in photos.epoch(epoch, 2, views, seed=0):
            for image_id, target in zip(batch.image_ids, batch.targets, strict=True):
                assert torch.equal(target["doubtful_boxes"], target["boxes"])
                assert torch.equal(target["doubtful_labels"], target["labels"] - 1)
                assert target["tags"].nonzero()[:, 0].tolist() == list(squares.by_id[image_id].tags)
    (batch, *_) = TrainingPhotos(squares, truth, 64, 96, "test", regions={"doubtful": {}}).epoch(0, 2, views, seed=0)
    assert batch.targets[0]["doubtful_boxes"].shape == (0, 4) and batch.targets[0]["doubtful_labels"].shape == (0,)
