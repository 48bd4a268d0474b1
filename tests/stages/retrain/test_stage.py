"""Retraining: resume bit for bit, what changes the weights, and a detector that learns two coloured squares."""

import json
from dataclasses import replace

import pytest
import torch

from tests import helpers
from tests.helpers import UNTRAINED_BACKBONE, Stopped, draw_squares, stopped_after_first_epoch, training_history
from weaksam.config import UserError
from weaksam.engine.detectors.training import lr_factor
from weaksam.engine.log import RunLog
from weaksam.evaluation.voc import voc_ap
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import (
    build_faster_rcnn,
)
from weaksam.models.roi.roi_drop import RoiDropSettings
from weaksam.stages.retrain import DinoRetrainSettings, RetrainSettings, run
from weaksam.store.weights import load_state

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


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return draw_squares(tmp_path_factory.mktemp("squares"))


def context(out, dataset, seed=0):
    log = RunLog(out / "log.jsonl")
    return helpers.context(out, dataset, seed, test=dataset, backbone=UNTRAINED_BACKBONE, log=log)


def truth_of(dataset):
    return {sample.image_id: sample.truth for sample in dataset}


def test_nothing_to_train_on_is_one_sentence(tmp_path, squares):
    with pytest.raises(UserError, match="at least one box") as caught:
        run(context(tmp_path, squares), TINY, {})
    assert "found none on 6 photos" in str(caught.value) and "\n" not in str(caught.value)


def test_the_run_is_the_same_bytes_resumed_or_not_and_other_seeds_differ(tmp_path, squares):
    first = run(context(tmp_path / "a", squares), TINY, truth_of(squares))
    killed = context(tmp_path / "b", squares)
    with pytest.raises(Stopped):
        run(stopped_after_first_epoch(killed), TINY, truth_of(squares))
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
    assert max(len(boxes) for boxes in fewer.detections("test").values()) == 3
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
    untrained = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2)
    assert set(load_state(result.weights)) == set(untrained.state_dict())


def test_a_number_of_steps_ends_within_an_epoch_and_the_rate_falls_at_its_milestones(tmp_path, squares):
    published = TINY.model_copy(
        update={"num_steps": 5, "optimizer": "sgd", "schedule": "steps", "milestones": (0.5, 0.8), "clip_norm": None}
    )
    factors = [lr_factor(step, 10, published.model_copy(update={"warmup_steps": 3})) for step in range(10)]
    assert factors == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    result = run(context(tmp_path / "out", squares), published, truth_of(squares))
    assert len(helpers.training_history(result.weights.parent)) == 2  # three steps an epoch, five in all
    assert run(context(tmp_path / "out", squares), TINY, truth_of(squares)).fingerprint != result.fingerprint


def test_roi_drop_starts_at_its_step_and_is_logged(tmp_path, squares):
    """Six photos in batches of two are three steps an epoch: dropping from the fourth step on begins with epoch two."""
    drop = RoiDropSettings(gate="independent", class_limit=0, box_limit=0, start_step=3)
    result = run(context(tmp_path, squares), TINY.model_copy(update={"roi_drop": drop}), truth_of(squares))
    first, second = training_history(result.weights.parent)
    assert (first["dropped_class"], first["dropped_box"]) == (0, 0)
    assert (second["dropped_class"], second["dropped_box"]) == (1, 1)
    assert first["loss_box_reg"] > 0 and second["loss_box_reg"] == 0
    plain = run(context(tmp_path / "plain", squares), TINY, truth_of(squares))
    assert plain.fingerprint != result.fingerprint
    # The same first epoch, to the last digit
    assert training_history(plain.weights.parent)[0].items() <= first.items()


def test_given_weights_start_the_training_and_others_are_refused_in_one_sentence(tmp_path, squares):
    short = TINY.model_copy(update={"num_epochs": 1, "detect_train": False})
    first = run(context(tmp_path / "first", squares), short, truth_of(squares))
    folder = short.model_copy(update={"init": first.weights.parent})
    file = short.model_copy(update={"init": first.weights})
    results = [run(context(tmp_path / "next", squares), settings, truth_of(squares)) for settings in (folder, file)]
    assert results[0].weights == results[1].weights  # the bytes count, not the path
    assert results[0].weights.read_bytes() != first.weights.read_bytes()
    other = folder.model_copy(update={"representation": 16})
    for settings, words in ((other, "retrain.init .*box_head"), (_at(short, tmp_path / "no"), "found neither in")):
        with pytest.raises(UserError, match=words) as caught:
            run(context(tmp_path / "refused", squares), settings, truth_of(squares))
        assert "\n" not in str(caught.value)
    (first.weights.parent / "manifest.json").unlink()
    with pytest.raises(UserError, match="found neither in"):
        run(context(tmp_path / "refused", squares), folder, truth_of(squares))


def _at(settings, path):
    return settings.model_copy(update={"init": path})


def test_the_kept_weights_are_the_average_and_resume_keeps_it(tmp_path, squares):
    averaged = TINY.model_copy(update={"weight_average": 0.9, "detect_train": False})
    result = run(context(tmp_path / "a", squares), averaged, truth_of(squares))
    last = run(context(tmp_path / "a", squares), TINY, truth_of(squares))
    states = load_state(result.weights), load_state(last.weights)
    key = "roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(states[0][key], states[1][key])
    frozen = "backbone.body.0.1.running_mean"
    assert torch.equal(states[0][frozen], states[1][frozen])


@pytest.mark.parametrize("kind", [RetrainSettings, DinoRetrainSettings])
def test_with_complete_labels_every_region_without_a_box_is_background(kind):
    incomplete = kind(negatives={"rule": "detections", "confident": 0.8}, num_epochs=3)
    complete = incomplete.with_complete_labels()
    assert (complete.negatives.rule, complete.negatives.confident) == ("all", None)
    assert complete.num_epochs == 3
