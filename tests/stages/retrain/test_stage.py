"""Retraining: augmentation and targets by hand, resume bit for bit, and a detector that learns two coloured squares."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import Matcher

from tests import helpers
from tests.helpers import UNTRAINED_BACKBONE
from weaksam.config import UserError
from weaksam.engine.detectors.augmentation import AugmentSettings, change_colours, vary
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.photos import fit_size
from weaksam.engine.log import RunLog
from weaksam.evaluation.voc import voc_ap
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import (
    IncompleteLabelsMatcher,
    build_faster_rcnn,
    detect,
    instances_from,
    target_of,
    training_losses,
)
from weaksam.stages.retrain import RetrainSettings, run
from weaksam.store.weights import load_state
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle, rle_from_mask

COLOURS = ((220, 30, 30), (30, 60, 220))
TINY = RetrainSettings(
    short_side=64,
    long_side=96,
    fpn_channels=16,
    representation=32,
    trainable_layers=6,
    num_epochs=2,
    batch_size=2,
    warmup_steps=2,
    backbone_lr_factor=1.0,
    smallest_scale=0.9,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    min_score=0.0,
)


def as_instances(*rows, **fields):
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32).reshape(-1, 4)
    return Instances(boxes, torch.tensor([row[4] for row in rows], dtype=torch.int64), **fields)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Six photos of 96 x 64 or 64 x 96 pixels with one or two squares; the last has a tag but nothing in it."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    samples = []
    for number in range(6):
        size = (64, 96) if number % 2 else (96, 64)
        image = rng.integers(100, 140, (*size, 3), dtype=np.uint8)
        rows = []
        for label in range(0 if number == 5 else 1 + number % 2):
            x, y = 4 + 30 * label, 6 + 5 * number
            image[y : y + 26, x : x + 26] = COLOURS[label]
            rows.append((x, y, x + 26, y + 26, label))
        path = folder / f"{number}.png"
        Image.fromarray(image).save(path)
        truth = as_instances(*rows)
        samples.append(Sample(path.name, path, size, tuple(truth.labels.tolist()) or (0,), truth, number + 1))
    return Dataset("squares", ("red", "blue"), (3, 7), tuple(samples), ())


def context(out, dataset, seed=0):
    log = RunLog(out / "log.jsonl")
    return helpers.context(out, dataset, seed, test=dataset, backbone=UNTRAINED_BACKBONE, log=log)


def truth_of(dataset):
    return {sample.image_id: sample.truth for sample in dataset}


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (288, 384)), ((640, 480), (384, 288)), ((100, 400), (104, 416)), ((288, 300), (288, 300))],
)
def test_resizing_keeps_the_short_side_unless_the_long_one_would_be_too_long(size, expected):
    assert fit_size(size, 288, 416) == expected


def test_a_view_moves_boxes_and_masks_with_the_pixels():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:20, 30:50] = 255
    mask = image[0] > 0
    instances = as_instances((30, 10, 50, 20, 1), masks=(rle_from_mask(mask),))
    views = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        settings = AugmentSettings(smallest_scale=0.5, largest_scale=2.0, colour_jitter=0)
        view, found, masks = vary(image, instances, settings, generator)
        x1, y1, x2, y2 = found.boxes[0].round().int().tolist()
        bright = view[0] > 0.5
        inside = torch.zeros_like(bright)
        inside[y1:y2, x1:x2] = True
        # Box, mask and bright pixels are the same region, up to the rounding of one pixel at each border
        assert (bright ^ inside).sum() <= 2 * ((x2 - x1) + (y2 - y1))
        assert (bright ^ masks[0]).sum() <= 2 * ((x2 - x1) + (y2 - y1))
        views.add(bool(x1 < view.shape[2] / 3))  # mirrored: 10..30 of 60; not mirrored: 30..50
    assert views == {True, False}


def test_the_draw_of_a_view_follows_from_the_generator_alone():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    views = [vary(image, Instances.empty(), AugmentSettings(), torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(views[0], views[1])
    assert views[0].shape != views[2].shape or not torch.equal(views[0], views[2])


def test_colours_change_by_the_stated_share():
    image = torch.full((3, 2, 2), 0.5)
    # Draws 1, 0.5, 0.5: brightness times 1.2, contrast and saturation unchanged; a grey photo stays grey
    torch.testing.assert_close(change_colours(image, (1.0, 0.5, 0.5), 0.2), torch.full((3, 2, 2), 0.6))
    torch.testing.assert_close(change_colours(image, (0.0, 0.5, 0.5), 0.2), torch.full((3, 2, 2), 0.4))
    assert change_colours(image, (1.0, 1.0, 1.0), 0.0) is image


def test_targets_count_labels_from_one_and_leave_out_slivers():
    target = target_of(as_instances((0, 0, 10, 10, 0), (5, 5, 5.5, 30, 1)), torch.ones(2, 40, 40, dtype=torch.bool))
    assert target["boxes"].tolist() == [[0, 0, 10, 10]]
    assert target["labels"].tolist() == [1]
    assert target["masks"].shape == (1, 40, 40) and target["masks"].dtype == torch.uint8


def test_detections_return_to_the_original_frame_and_labels_to_zero():
    raw = {
        "boxes": torch.tensor([[10.0, 20.0, 100.0, 50.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.5]),
    }
    found = instances_from(raw, from_size=(50, 100), to_size=(100, 300))
    assert found.boxes.tolist() == [[30, 40, 300, 100]]
    assert found.labels.tolist() == [1]


def test_photos_with_a_tag_but_no_box_are_left_out_and_true_negatives_stay(squares):
    photos = TrainingPhotos(squares, truth_of(squares), 64, 96, "test")
    assert len(photos) == 5 and photos.num_left_out == 1
    untagged = [Sample(s.image_id, s.path, s.size, (), None, s.number) for s in squares]
    negatives = Dataset("none", squares.classes, squares.category_ids, tuple(untagged), ())
    assert len(TrainingPhotos(negatives, {}, 64, 96, "test")) == 6
    # Three upright and two wide photos: two batches and one
    assert photos.num_batches(2) == 3
    batches = list(photos.epoch(0, 2, TINY, seed=0))
    assert sorted(image_id for batch in batches for image_id in batch.image_ids) == [f"{i}.png" for i in range(5)]
    again, other = list(photos.epoch(0, 2, TINY, seed=0)), list(photos.epoch(1, 2, TINY, seed=0))
    assert [b.image_ids for b in batches] == [b.image_ids for b in again]
    assert torch.equal(batches[0].images[0], again[0].images[0])
    pixels = {batch.image_ids[0]: batch.images[0] for batch in other}
    shared = [b for b in batches if b.image_ids[0] in pixels]
    assert not any(torch.equal(b.images[0], pixels[b.image_ids[0]]) for b in shared)


def test_a_photo_without_boxes_has_finite_losses():
    torch.manual_seed(0)
    model = build_faster_rcnn(BackboneSettings(weights="none"), TINY, 2)
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    targets = [target_of(Instances.empty()), target_of(as_instances((8, 8, 40, 40, 1)))]
    losses = training_losses(model, images, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert float(model.roi_heads.box_head.fc6.weight.grad.abs().sum()) > 0


def test_one_by_one_equals_torchvisions_own_forward():
    torch.manual_seed(0)
    model = build_faster_rcnn(BackboneSettings(weights="none"), TINY, 2)
    image = torch.rand(3, 64, 96)
    model.eval()
    with torch.inference_mode():
        (expected,) = FasterRCNN.forward(model, [image])
    (found,) = detect(model, [image])
    assert len(found["boxes"]) > 0
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(found[name], expected[name])


def test_regions_far_from_every_box_are_ignored_where_labels_are_incomplete():
    iou = torch.tensor([[0.6, 0.3, 0.05, 0.0], [0.1, 0.45, 0.09, 0.0]])  # (boxes, regions)
    assert IncompleteLabelsMatcher(0.5, 0.1)(iou).tolist() == [0, -1, -2, -2]
    usual = Matcher(0.5, 0.5, allow_low_quality_matches=False)
    assert IncompleteLabelsMatcher(0.5, 0.0)(iou).tolist() == usual(iou).tolist() == [0, -1, -1, -1]


def test_nothing_to_train_on_is_one_sentence(tmp_path, squares):
    with pytest.raises(UserError, match="at least one box") as caught:
        run(context(tmp_path, squares), TINY, {})
    assert "\n" not in str(caught.value)


def test_the_run_is_the_same_bytes_resumed_or_not_and_other_seeds_differ(tmp_path, squares):
    first = run(context(tmp_path / "a", squares), TINY, truth_of(squares))
    killed = context(tmp_path / "b", squares)

    class Kill(Exception):
        pass

    class StopAfterFirstEpoch(RunLog):
        def write(self, event, **fields):
            if event == "epoch":
                raise Kill

    broken = replace(killed, log=StopAfterFirstEpoch(tmp_path / "b" / "log.jsonl"))
    with pytest.raises(Kill):
        run(broken, TINY, truth_of(squares))
    second = run(killed, TINY, truth_of(squares))
    assert first.weights.read_bytes() == second.weights.read_bytes()
    files = [tmp_path / out / "retrain" / "detections_test.json" for out in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    other = run(context(tmp_path / "c", squares, seed=1), TINY.model_copy(update={"num_epochs": 1}), truth_of(squares))
    assert other.fingerprint != first.fingerprint
    assert other.weights.read_bytes() != first.weights.read_bytes()


def test_other_test_settings_keep_the_weights_and_make_new_detections(tmp_path, squares):
    settings = TINY.model_copy(update={"num_epochs": 1, "detect_train": False})
    first = run(context(tmp_path, squares), settings, truth_of(squares))
    written = first.weights.stat().st_mtime_ns
    fewer = run(context(tmp_path, squares), settings.model_copy(update={"max_boxes": 3}), truth_of(squares))
    assert fewer.weights == first.weights and fewer.weights.stat().st_mtime_ns == written
    assert max(len(found) for found in fewer.detections("test").values()) == 3
    assert fewer.stores["test"].folder != first.stores["test"].folder
    assert set(fewer.stores) == {"test"}


def test_training_learns_and_everything_is_written(tmp_path, squares, shared_data):
    plain = {"smallest_scale": 1.0, "largest_scale": 1.0, "colour_jitter": 0.0}
    settings = TINY.model_copy(update={"num_epochs": 15, "lr": 1e-3, "flip_test": True, **plain})
    weights = shared_data / "weights" / "mobilenet_v2_imagenet.safetensors"
    pretrained = replace(context(tmp_path, squares), backbone=BackboneSettings(weights=str(weights)))
    result = run(pretrained, settings, truth_of(squares), name="ceiling")
    quality = voc_ap(truth_of(squares), result.detections("test"), num_classes=2)
    assert quality.mean(0.5) > 0.5  # 0.66 to 0.8, by the version of torch and the processor
    rows = json.loads((tmp_path / "ceiling" / "detections_test.json").read_text())
    assert {row["category_id"] for row in rows} <= {3, 7} and {row["image_id"] for row in rows} <= set(range(1, 7))
    assert (tmp_path / "ceiling" / "detections_train.json").is_file()
    untrained = build_faster_rcnn(BackboneSettings(weights="none"), TINY, 2)
    assert set(load_state(result.weights)) == set(untrained.state_dict())


def test_the_masks_of_training_photos_shrink_with_them(squares):
    full = torch.zeros(96, 64, dtype=torch.bool)
    full[32:64, 16:48] = True
    pseudo = {"0.png": as_instances((16, 32, 48, 64, 0), masks=(rle_from_mask(full),))}
    photos = TrainingPhotos(squares, pseudo, 32, 48, "test")
    assert photos.instances[0].boxes.tolist() == [[8, 16, 24, 32]]
    small = mask_from_rle(photos.instances[0].masks[0])
    assert small.shape == (48, 32) and small[16:32, 8:24].all() and int(small.sum()) == 256
