"""The first share of a training is that of the whole one, and its regions are measured against the true boxes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import helpers
from tests.helpers import UNTRAINED_BACKBONE, draw_squares, training_history
from weaksam.config import UserError
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.early import foreground_regions, region_losses
from weaksam.engine.detectors.training import batch_on
from weaksam.models.roi.roi_drop import RoiDropSettings
from weaksam.stages.retrain import RetrainSettings, run, run_early
from weaksam.store.weights import load_state
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

TINY = RetrainSettings(
    short_side=64,
    long_side=96,
    fpn_channels=16,
    representation=32,
    trainable_layers=6,
    num_epochs=2,
    batch_size=2,
    warmup_steps=2,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    max_boxes=5,
    detect_train=False,
)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Dataset:
    return draw_squares(tmp_path_factory.mktemp("squares"))


def context(out: Path, squares: Dataset):
    return helpers.context(out, squares, backbone=UNTRAINED_BACKBONE)


def with_a_wrong_box(squares: Dataset) -> dict[str, Instances]:
    """The true boxes; that of the first photo lies elsewhere, and the second square of the second is called red."""
    boxes = {sample.image_id: sample.truth for sample in squares}
    boxes["0.png"] = boxes["0.png"].replace(boxes=boxes["0.png"].boxes + 22)
    boxes["1.png"] = boxes["1.png"].replace(labels=torch.tensor([0, 0]))
    return boxes


def test_the_first_share_is_what_the_whole_training_begins_with(tmp_path, squares):
    """Three steps an epoch, six in all: after half of them the history is that of the first epoch."""
    boxes = with_a_wrong_box(squares)
    drop = RoiDropSettings(gate="independent", class_limit=0, box_limit=0, start_step=3)
    settings = TINY.model_copy(update={"roi_drop": drop})
    whole = run(context(tmp_path, squares), settings, boxes)
    early = run_early(context(tmp_path / "early", squares), settings, boxes, 0.5)
    first, second = training_history(whole.weights.parent)
    kept = {name: value for name, value in first.items() if not name.startswith("dropped")}
    assert training_history(early.weights.parent) == [kept] and second["dropped_class"] == 1
    stamp = early.weights.stat().st_mtime_ns
    assert run_early(context(tmp_path / "early", squares), settings, boxes, 0.5).weights.stat().st_mtime_ns == stamp
    other = run_early(context(tmp_path / "early", squares), settings, boxes, 4 / 6)  # ends within the second epoch
    assert other.weights != early.weights and len(training_history(other.weights.parent)) == 2
    full = load_state(run_early(context(tmp_path / "early", squares), TINY, boxes, 1.0).weights)
    plain = load_state(run(context(tmp_path / "plain", squares), TINY, boxes).weights)
    assert all(torch.equal(value, full[name]) for name, value in plain.items())
    assert not (tmp_path / "early" / "log.jsonl").exists()


def test_no_box_is_one_sentence(tmp_path, squares):
    with pytest.raises(UserError, match="at least one box"):
        run_early(context(tmp_path, squares), TINY, {}, 0.5)


def test_regions_are_wrong_where_their_box_is(tmp_path, squares):
    boxes, truths = with_a_wrong_box(squares), squares.truths
    early = run_early(context(tmp_path, squares), TINY, boxes, 0.5)
    before = {name: value.clone() for name, value in early.model.state_dict().items()}
    regions = foreground_regions(context(tmp_path, squares), early, truths, num_passes=2)
    again = foreground_regions(context(tmp_path, squares), early, truths, num_passes=2)
    assert regions.losses["class"].tolist() == again.losses["class"].tolist()
    assert all(torch.equal(value, before[name]) for name, value in early.model.state_dict().items())
    assert regions.num_photos == 5 and set(regions.batches.tolist()) <= set(range(6))  # the last photo has no box
    # Boxes teach themselves, so each has a region at least: five right and two wrong ones, in both passes
    assert len(regions) >= 14 and 4 <= regions.wrong.sum() <= len(regions) - 10
    assert set(regions.losses) == {"class", "box"} and all((of >= 0).all() for of in regions.losses.values())
    # The same with only the photos of right, or only of wrong boxes
    right = foreground_regions(context(tmp_path, squares), early, {i: truths[i] for i in ("2.png", "3.png")})
    assert right.num_photos == 2 and not right.wrong.any() and len(right) >= 3
    wrong = foreground_regions(context(tmp_path, squares), early, {"0.png": truths["0.png"]})
    assert wrong.wrong.all() and len(wrong) >= 1
    nothing = foreground_regions(context(tmp_path, squares), early, {})
    assert len(nothing) == 0 and set(nothing.losses) == {"class", "box"} and np.isnan(nothing.error_rate)


def test_losses_of_regions_are_those_of_a_training_step(tmp_path, squares):
    """Reduced, the losses of single regions are those that the detector gives in training, on the same draws."""
    early = run_early(context(tmp_path, squares), TINY, squares.truths, 0.25)
    model = early.model.train()
    photos = TrainingPhotos(squares, squares.truths, 64, 96, "squares")
    images, targets = batch_on(photos.epoch(0, 3, TINY, 0)[0], torch.device("cpu"))
    torch.manual_seed(0)
    expected = model(images, [dict(target) for target in targets])
    torch.manual_seed(0)
    losses = region_losses(model, images, targets)
    for name, value in losses.reduced().items():
        assert float(value) == pytest.approx(expected[name].item(), rel=1e-5)
    # Regions are assigned to the box of their label
    start = 0
    for target, matches in zip(targets, losses.matches, strict=True):
        labels = losses.labels[start : start + len(matches)]
        start += len(matches)
        assert torch.equal(target["labels"][matches[labels > 0]], labels[labels > 0])
    assert start == len(losses.labels) and (losses.labels > 0).any()
