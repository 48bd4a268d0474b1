"""The teacher: its weights, where its boxes lie in a view, which are kept, and a training that resumes to the byte."""

import copy

import pytest
import torch

from tests import helpers
from tests.helpers import (
    CPU,
    UNTRAINED_BACKBONE,
    Stopped,
    draw_squares,
    instances,
    stopped_after_first_epoch,
    training_history,
)
from weaksam.config import fingerprint_of
from weaksam.engine.detectors.augmentation import AugmentSettings
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.taught import TaughtSettings, taught_objective
from weaksam.engine.detectors.teacher import Teacher, TeacherSettings, joined
from weaksam.engine.detectors.training import detector_objective, optimizer_of
from weaksam.engine.log import RunLog
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, detect, target_of
from weaksam.stages.retrain import RetrainSettings, run

TINY = RetrainSettings(
    short_side=64,
    long_side=96,
    fpn_channels=16,
    representation=32,
    num_epochs=2,
    batch_size=2,
    warmup_steps=2,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    min_score=0.0,
    detect_train=False,
    flip_test=False,
)
TEACHER = TeacherSettings(weight=0.5, box_weight=0.25, min_score=0.2, start_share=0.5, decay=0.9)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return draw_squares(tmp_path_factory.mktemp("squares"))


def truth_of(dataset):
    return {sample.image_id: sample.truth for sample in dataset}


def photos_of(squares, **options) -> TrainingPhotos:
    return TrainingPhotos(squares, truth_of(squares), 64, 96, "test", weak_views=True, **options)


def test_boxes_of_known_objects_parts_and_wholes_are_left_out():
    target = target_of(instances([[0, 0, 40, 40], [60, 60, 70, 70]], [0, 1], crowd=[False, True]))
    new = {
        # Half of the first; a part of it; the same of another class; elsewhere; around it; an ignored region; a sliver
        "boxes": torch.tensor(
            [
                [0.0, 0, 40, 20],
                [10, 10, 14, 14],
                [0, 0, 40, 40],
                [44, 0, 80, 30],
                [0, 0, 60, 60],
                [60, 60, 70, 70],
                [5, 50, 5.5, 60],
            ]
        ),
        "labels": torch.tensor([1, 1, 2, 1, 1, 2, 2]),
    }
    result = joined(target, new, TEACHER)
    assert result["boxes"].tolist() == [
        [0, 0, 40, 40],
        [60, 60, 70, 70],
        [0, 0, 40, 40],
        [44, 0, 80, 30],
        [60, 60, 70, 70],
    ]
    assert result["labels"].tolist() == [1, -1, 2, 1, 2]
    assert result["class_weights"].tolist() == [1, 1, 0.5, 0.5, 0.5]
    assert result["box_weights"].tolist() == [1, 1, 0.25, 0.25, 0.25]
    nothing = joined(target, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}, TEACHER)
    assert torch.equal(nothing["boxes"], target["boxes"]) and nothing["class_weights"].tolist() == [1, 1]


def test_boxes_of_the_weak_view_lie_on_the_same_pixels_of_the_view(squares):
    views = AugmentSettings(smallest_scale=0.6, colour_jitter=0)
    num_mirrored = 0
    for batch in photos_of(squares).epoch(3, 2, views, seed=0):
        for image, target, weak in zip(batch.images, batch.targets, batch.weak_views, strict=True):
            assert weak.image.dtype == torch.uint8 and weak.image.shape[1:] in ((64, 96), (96, 64))
            sample = next(s for s in squares if torch.allclose(weak.to_view(s.truth.boxes), target["boxes"]))
            num_mirrored += bool(
                target["boxes"][0, 0] / image.shape[2] > sample.truth.boxes[0, 0] / sample.size[1] + 0.05
            )
            assert weak.tags.nonzero()[:, 0].tolist() == list(sample.tags)
    assert 0 < num_mirrored < 5
    assert len(weak.to_view(torch.zeros(0, 4))) == 0


def test_the_teacher_is_the_average_and_finds_what_that_network_finds(squares):
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2)
    optimizer = optimizer_of(model, TINY)
    teacher = Teacher(model, optimizer, TeacherSettings(weight=1, min_score=0.0, decay=0.9))
    (batch, *_) = photos_of(squares).epoch(0, 2, AugmentSettings(), seed=0)
    first = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    # After one step min(0.9, 2 / 11) of the average, which began there, is kept
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    for view in batch.weak_views:
        boxes = teacher.boxes(view, CPU)
        for name, parameter in teacher.network.named_parameters():
            torch.testing.assert_close(parameter, expected[name])
        model.eval()
        (raw,) = detect(model, [view.image / 255], masks=False)
        kept = view.tags[raw["labels"] - 1]
        torch.testing.assert_close(boxes["boxes"], raw["boxes"][kept])
        assert torch.equal(boxes["labels"], raw["labels"][kept]) and not boxes["boxes"].is_inference()
    optimizer.step()
    teacher.boxes(batch.weak_views[0], CPU)
    name = "roi_heads.box_predictor.cls_score.weight"
    share = 3 / 12
    second = dict(model.named_parameters())[name]
    torch.testing.assert_close(
        dict(teacher.network.named_parameters())[name], share * expected[name] + (1 - share) * second
    )
    assert not torch.equal(second, dict(first.named_parameters())[name])


def test_a_teacher_that_finds_nothing_teaches_nothing(squares):
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2)
    settings = TINY.model_copy(update={"teacher": TeacherSettings(weight=1, min_score=1.0, start_share=0)})
    (batch, *_) = photos_of(squares).epoch(0, 2, settings, seed=0)
    plain, taught = detector_objective(model, TINY, CPU), taught_objective(model, settings, CPU)
    taught.begin_step(0, 10)
    named = taught.losses(batch)
    assert float(named.pop("teacher_boxes")) == 0
    assert {name: float(value.detach()) for name, value in named.items()} == pytest.approx(
        {name: float(value.detach()) for name, value in plain.losses(batch).items()}, rel=1e-6
    )
    assert taught_objective(model, TaughtSettings(), CPU).begin_step.__qualname__.startswith("detector_objective")


def test_teaching_begins_after_its_share_and_resumes_to_the_same_bytes(tmp_path, squares):
    def context(name: str):
        out = tmp_path / name
        return helpers.context(out, squares, test=squares, backbone=UNTRAINED_BACKBONE, log=RunLog(out / "log.jsonl"))

    settings = TINY.model_copy(update={"teacher": TEACHER})
    first = run(context("a"), settings, truth_of(squares))
    killed = context("b")
    with pytest.raises(Stopped):
        run(stopped_after_first_epoch(killed), settings, truth_of(squares))
    second = run(killed, settings, truth_of(squares))
    assert first.weights.read_bytes() == second.weights.read_bytes()
    history = training_history(first.weights.parent)
    assert history[0]["teacher_boxes"] == 0 and history[1]["teacher_boxes"] > 0
    plain = run(context("a"), TINY, truth_of(squares))
    assert plain.fingerprint != first.fingerprint
    assert training_history(plain.weights.parent)[0].items() <= history[0].items()  # burn-in is the plain training


def test_without_a_teacher_nothing_changes():
    assert fingerprint_of(TINY) == fingerprint_of(TINY.model_copy(update={"teacher": TeacherSettings()}))
    assert fingerprint_of(TINY) != fingerprint_of(TINY.model_copy(update={"teacher": TEACHER}))
