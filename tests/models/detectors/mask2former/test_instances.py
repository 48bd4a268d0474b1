"""Targets and detections of Mask2Former by hand: empty masks, regions to ignore, scores, boxes, thresholds."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers import instances
from weaksam.config import fingerprint_of
from weaksam.engine.detectors.mask2former import segment_views
from weaksam.engine.detectors.mask2former_settings import TrainableMask2FormerSettings
from weaksam.engine.detectors.photos import ResizedPhoto
from weaksam.models.detectors.mask2former.instances import segment_photo
from weaksam.models.detectors.mask2former.losses import QueryPredictions
from weaksam.models.detectors.mask2former.settings import Mask2FormerSettings
from weaksam.models.detectors.mask2former.targets import mask_target, photo_objects
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle

SETTINGS = Mask2FormerSettings(max_boxes=10, min_score=0.05)
LEFT_OUT = TrainableMask2FormerSettings._not_fingerprinted


def test_empty_masks_and_regions_to_ignore_are_no_objects():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[2, 6:] = True, True
    boxes = instances([[0, 0, 8, 4], [1, 1, 2, 2], [0, 6, 8, 8]], [2, 1, 0], crowd=[False, False, True])
    target = mask_target(boxes, masks)
    assert target["labels"].tolist() == [2] and target["masks"].shape == (1, 8, 8)
    assert target["ignored"].sum() == 16 and target["ignored"][6:].all()
    (of_photo,) = photo_objects([target], [torch.zeros(3, 8, 8)])
    assert of_photo.masks.dtype == torch.float32 and of_photo.size == (8, 8)
    assert "ignored" not in mask_target(boxes.replace(crowd=None), masks)
    (nothing,) = photo_objects([mask_target(Instances.empty(), None)], [torch.zeros(3, 8, 8)])
    assert len(nothing.labels) == 0 and nothing.size == (8, 8)


def test_masks_without_weight_are_regions_to_ignore_with_their_boxes():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 4:6, :2], masks[2, 7:] = True, True, True
    boxes = instances([[0, 0, 8, 4], [0, 4, 3, 6], [0, 7, 8, 8]], [2, 1, 0], crowd=[False, False, True])
    target = mask_target(boxes.replace(mask_weights=torch.tensor([0.5, 0.0, 1.0])), masks)
    assert target["labels"].tolist() == [2] and target["mask_weights"].tolist() == [0.5]
    expected = torch.zeros(8, 8)
    expected[4:6, :3], expected[7] = 1, 1
    assert torch.equal(target["ignored"].float(), expected)
    (of_photo,) = photo_objects([target], [torch.zeros(3, 8, 8)])
    assert of_photo.weights.tolist() == [0.5]


class Told(torch.nn.Module):
    """Gives the same predictions of every photo."""

    def __init__(self, predictions: QueryPredictions) -> None:
        super().__init__()
        self.predictions = predictions

    def forward(self, images):
        return self.predictions


def told() -> Told:
    """Three queries on a frame of 32 x 32: the left half, nothing anywhere, and everything at half of that size."""
    features = torch.zeros(1, 2, 8, 8)
    features[0, 0, :, :4], features[0, 0, :, 4:] = 1, -1
    features[0, 1] = 1
    left, nowhere, everywhere = [math.log(9), 0.0], [0.0, -2.0], [0.0, math.log(3)]
    embeddings = torch.tensor([left, nowhere, everywhere]).view(1, 1, 3, 2)
    classes = torch.tensor([[0.6, 0.1, 0.3], [0.9, 0.05, 0.05], [0.3, 0.5, 0.2]]).log().view(1, 1, 3, 3)
    return Told(QueryPredictions(classes, embeddings, features, (32, 32)))


def test_detections_by_hand():
    # The photo shows the upper 16 rows of the frame and was twice as large
    detections = segment_photo(told(), torch.zeros(3, 16, 32), (32, 64), SETTINGS)
    # Class probability times mean probability inside: 0.9 or more on the left half, 0.75 everywhere; the empty is gone
    assert detections.labels.tolist() == [0, 1, 0, 1]
    assert detections.scores[1:3].tolist() == pytest.approx([0.5 * 0.75, 0.3 * 0.75], rel=1e-5)
    assert 0.6 * 0.8 < detections.scores[0] < 0.6 * 0.9 and detections.scores[3] == pytest.approx(
        detections.scores[0].item() / 6
    )
    assert detections.boxes[1].tolist() == detections.boxes[2].tolist() == [0, 0, 64, 32]
    assert detections.boxes[0].tolist() == detections.boxes[3].tolist() == [0, 0, 32, 32]
    mask = mask_from_rle(detections.masks[0])
    assert mask.shape == (32, 64) and mask[:, :32].all() and not mask[:, 32:].any()


def test_a_higher_threshold_leaves_smaller_masks_with_higher_scores():
    low, high = (
        segment_photo(told(), torch.zeros(3, 32, 32), (32, 32), SETTINGS.model_copy(update={"mask_threshold": value}))
        for value in (0.5, 0.85)
    )
    assert len(low) == 4 and len(high) == 2  # nothing reaches 0.85 of the mask that is 0.75 everywhere
    assert high.scores[0] > low.scores[0] and high.boxes[0, 2] < low.boxes[0, 2]


def test_limits_and_nothing_left():
    photo = torch.zeros(3, 16, 32)
    few = segment_photo(told(), photo, (32, 64), SETTINGS.model_copy(update={"max_boxes": 2}))
    # The two best by class are the query without a mask and the left half
    assert len(few) == 1 and few.labels.tolist() == [0]
    none = segment_photo(told(), photo, (32, 64), SETTINGS.model_copy(update={"min_score": 0.95}))
    assert len(none) == 0 and none.masks == () and none.scores.shape == (0,) and none.boxes.shape == (0, 4)
    assert len(Instances.cat([none, few])) == 1


class Brightness(torch.nn.Module):
    """Gives one query whose mask is where the photo is bright, read at half its size."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label, self.sizes = label, []

    def forward(self, images):
        (image,) = images
        self.sizes.append(tuple(image.shape[1:]))
        features = torch.nn.functional.avg_pool2d(image[None, :1].float() / 255, 2) - 0.5
        classes = torch.full((1, 1, 1, 3), 0.05)
        classes[..., self.label] = 0.9
        return QueryPredictions(classes.log(), torch.full((1, 1, 1, 1), 9.0), features, tuple(image.shape[1:]))


def bright_photo(size: tuple[int, int] = (16, 32), scale: int = 2) -> ResizedPhoto:
    """A photo that is bright on the left quarter."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[:, :, : size[1] // 4] = 255
    return ResizedPhoto("one.jpg", image, (size[0] * scale, size[1] * scale))


def views(**changes) -> TrainableMask2FormerSettings:
    return TrainableMask2FormerSettings(max_boxes=10, min_score=0.3, **changes)


def test_the_mirror_image_gives_the_same_masks_mirrored_back():
    photo = bright_photo()
    plain, mirrored = (
        segment_photo(Brightness(1), photo.image, photo.size, SETTINGS, mirrored=flag) for flag in (False, True)
    )
    assert mirrored.boxes.tolist() == plain.boxes.tolist() == [[0, 0, 16, 32]] * len(plain)
    assert mirrored.masks == plain.masks and mirrored.labels.tolist() == plain.labels.tolist()
    torch.testing.assert_close(mirrored.scores, plain.scores)


def test_views_are_merged_and_suppressed_by_their_masks():
    model, cpu = Brightness(1), torch.device("cpu")
    photos = [bright_photo(), bright_photo((32, 64), 1)]
    merged = segment_views(model, photos, views(flip_test=True), cpu)
    assert model.sizes == [(16, 32), (16, 32), (32, 64), (32, 64)]
    # Four times nearly the same mask: the best of them is left
    alone = [
        segment_photo(model, photo.image, photo.size, views(), mirrored=flag)
        for photo in photos
        for flag in (False, True)
    ]
    every = Instances.cat(alone)
    best = int(every.scores.argmax())
    assert len(every) == 4 and len(merged) == 1
    assert merged.masks == (every.masks[best],) and merged.scores.tolist() == [every.scores[best].item()]
    # Limits of 1 suppress nothing; the best stay where there are too many
    assert len(segment_views(model, photos, views(flip_test=True, nms_iou=1.0), cpu)) == 4
    few = views(flip_test=True, nms_iou=1.0).model_copy(update={"max_boxes": 3})
    assert segment_views(model, photos, few, cpu).scores.tolist() == sorted(every.scores.tolist(), reverse=True)[:3]
    none = segment_views(model, photos, views(flip_test=True).model_copy(update={"min_score": 0.99}), cpu)
    assert len(none) == 0 and none.masks == ()


def test_one_view_is_not_suppressed():
    photo = bright_photo()
    twice = QueryPredictions(
        torch.tensor([[0.9, 0.05, 0.05]] * 2).log().view(1, 1, 2, 3),
        torch.full((1, 1, 2, 1), 9.0),
        photo.image[None, :1, ::2, ::2] / 255 - 0.5,
        (16, 32),
    )
    settings = views(nms_iou=0.1)
    assert len(segment_views(Told(twice), [photo], settings, torch.device("cpu"))) == 2
    assert len(segment_views(Told(twice), [photo, photo], settings, torch.device("cpu"))) == 1


def test_the_fingerprint_without_other_views_is_what_it_was():
    later = {"flip_test", "test_scales", "longest_test", "nms_iou"}
    settings = views()
    before = {name: getattr(settings, name) for name in type(settings).model_fields if name not in later | LEFT_OUT}
    assert fingerprint_of(settings) == fingerprint_of(before)
    for change in ({"flip_test": True}, {"test_scales": (1.0, 1.5)}, {"longest_test": 500}, {"nms_iou": 0.5}):
        assert fingerprint_of(views(**change)) != fingerprint_of(settings)
    assert later <= TrainableMask2FormerSettings.when_detecting
