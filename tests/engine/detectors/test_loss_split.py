"""The split by loss: which boxes lose what, losses of single boxes, and a training that resumes to the byte."""

import json

import pytest
import torch
from torch.nn import functional as F

from tests import helpers
from tests.helpers import CPU, UNTRAINED_BACKBONE, Stopped, draw_squares, stopped_after_first_epoch
from weaksam.config import UserError, fingerprint_of, load_settings
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.loss_split import (
    FILE,
    BoxLosses,
    LossSplitSettings,
    losses_of_boxes,
    split_before_epoch,
    split_by_loss,
)
from weaksam.engine.detectors.training import EpochStart
from weaksam.engine.log import RunLog
from weaksam.engine.training_job import TrainingJob
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.pipeline.settings import RunSettings
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
NAN = float("nan")


def losses(classes: list[float], extents: list[float]) -> BoxLosses:
    return BoxLosses(torch.tensor(classes), torch.tensor(extents))


PHOTOS = [losses([1.0, 5.0, NAN], [9.0, 1.0, NAN]), losses([], []), losses([3.0, 2.0], [2.0, 4.0])]
LABELS = [torch.tensor([0, 1, 0]), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0])]


def test_of_each_class_the_highest_losses_are_split_off():
    # Class 0: class losses 1, 3, 2 and box losses 9, 2, 4; class 1 has one box, which stays
    settings = LossSplitSettings(class_share=0.5, box_share=0.4, teacher_share=0.67)
    first, none, last = split_by_loss(PHOTOS, LABELS, settings)
    assert first.without_class.tolist() == [False, False, False] and last.without_class.tolist() == [True, False]
    assert first.without_box.tolist() == [True, False, False] and last.without_box.tolist() == [False, False]
    # Sums 10, 5, 6: two thirds of three
    assert first.ignored.tolist() == [True, False, False] and last.ignored.tolist() == [False, True]
    assert none.ignored.shape == (0,)
    off = split_by_loss(PHOTOS, LABELS, LossSplitSettings())
    assert not any(bool(marks.any()) for split in off for marks in vars(split).values())


def test_photos_are_split_by_the_mean_of_their_boxes():
    settings = LossSplitSettings(by="photos", class_share=0.5, box_share=0.5, teacher_share=0.5)
    # Class losses 3 and 2.5, box losses 5 and 3; what teaches nothing is not split off
    first, _, last = split_by_loss(PHOTOS, LABELS, settings)
    assert first.without_class.tolist() == first.without_box.tolist() == first.ignored.tolist() == [True, True, False]
    assert not last.without_class.any() and not last.without_box.any() and not last.ignored.any()


def test_of_equal_losses_the_first_stay():
    equal = [losses([1.0], [1.0])] * 4
    splits = split_by_loss(equal, [torch.tensor([0])] * 4, LossSplitSettings(class_share=0.5))
    assert [bool(split.without_class) for split in splits] == [False, False, True, True]


def test_a_box_has_the_mean_loss_of_its_regions():
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2).eval()
    image, boxes = torch.rand(3, 64, 96), torch.tensor([[4.0, 6.0, 40.0, 50.0], [50.0, 10.0, 90.0, 60.0]])
    labels = torch.tensor([1, 2])
    of_boxes = losses_of_boxes(model, image, boxes, labels)
    with torch.no_grad():
        batch, _ = model.transform([image])
        features = model.backbone(batch.tensors)
        (proposals,), _ = model.rpn(batch, features)
        heads, num = model.roi_heads, 0
        for row, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            class_losses, deltas_losses = [], []
            for region in [*proposals, box]:
                corner, far = torch.maximum(region[:2], box[:2]), torch.minimum(region[2:], box[2:])
                shared = (far - corner).clamp(min=0).prod()
                areas = (region[2:] - region[:2]).prod() + (box[2:] - box[:2]).prod()
                if shared / (areas - shared) < 0.5:
                    continue
                pooled = heads.box_roi_pool(features, [region[None]], batch.image_sizes)
                logits, deltas = heads.box_predictor(heads.box_head(pooled))
                class_losses.append(F.cross_entropy(logits, label[None]))
                wanted = heads.box_coder.encode_single(box[None], region[None])
                own = deltas[:, 4 * label : 4 * label + 4]
                deltas_losses.append(F.smooth_l1_loss(own, wanted, beta=1 / 9, reduction="sum"))
            num += len(class_losses)
            assert float(of_boxes.classes[row]) == pytest.approx(float(sum(class_losses) / len(class_losses)), rel=1e-4)
            mean = float(sum(deltas_losses) / len(deltas_losses))
            assert float(of_boxes.extents[row]) == pytest.approx(mean, rel=1e-4, abs=1e-6)
    assert num > 2  # proposals among them


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return draw_squares(tmp_path_factory.mktemp("squares"))


def truth_of(dataset):
    return {sample.image_id: sample.truth for sample in dataset}


def split_context(out, squares):
    return helpers.context(out, squares, test=squares, backbone=UNTRAINED_BACKBONE, log=RunLog(out / "log.jsonl"))


def test_the_training_splits_once_and_resumes_to_the_same_bytes(tmp_path, squares):
    split = {"box_share": 0.5, "class_share": 0.4, "teacher_share": 0.3, "start_share": 0.5}
    settings = RetrainSettings(**TINY.model_dump(exclude={"teacher", "split"}), split=split, teacher={"weight": 1})
    first = run(split_context(tmp_path / "a", squares), settings, truth_of(squares))
    killed = split_context(tmp_path / "b", squares)
    with pytest.raises(Stopped):
        run(stopped_after_first_epoch(killed), settings, truth_of(squares))
    second = run(killed, settings, truth_of(squares))
    assert first.weights.read_bytes() == second.weights.read_bytes()
    events = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    (event,) = [event for event in events if event["event"] == "split by loss"]
    # Seven squares, five red and two blue: 0.5, 0.4 and 0.3 of five and of two, rounded down
    assert (event["epoch"], event["boxes"]) == (2, 7)
    assert (event["without_box"], event["without_class"], event["teacher_only"]) == (2 + 1, 2 + 0, 1 + 0)
    assert event["classes_without_box"] == []
    record = json.loads((first.weights.parent / FILE).read_text())
    assert len(record["photos"]) == 5 and all(value > 0 for photo in record["photos"] for value in photo["class"])


def test_what_cannot_be_split_is_one_sentence(tmp_path, squares):
    with pytest.raises(UserError, match=r"found teacher\.weight=0: set teacher\.weight=1"):
        load_settings(RunSettings, None, ["retrain.split.teacher_share=0.5"])
    photos = TrainingPhotos(squares, truth_of(squares), 64, 96, "test")
    job = TrainingJob(tmp_path, "of", "retrain", 0, num_epochs=4)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2)
    split = LossSplitSettings(box_share=0.5, start_share=0.5)
    before = list(photos.instances)
    split_before_epoch(model, split, EpochStart(1, 4, photos, job, CPU))
    split_before_epoch(model, LossSplitSettings(), EpochStart(3, 4, photos, job, CPU))
    assert photos.instances == before and not (tmp_path / FILE).exists()
    with pytest.raises(UserError, match="found none or damaged ones: delete") as caught:
        split_before_epoch(model, split, EpochStart(3, 4, photos, job, CPU))
    assert "\n" not in str(caught.value)
    split_before_epoch(model, split, EpochStart(2, 4, photos, job, CPU))
    lost = [int((boxes.box_weights == 0).sum()) for boxes in photos.instances]
    assert sum(lost) == 3 and (tmp_path / FILE).is_file()
    split_before_epoch(model, split, EpochStart(3, 4, photos, job, CPU))
    assert [int((boxes.box_weights == 0).sum()) for boxes in photos.instances] == lost


def test_without_a_split_nothing_changes():
    assert fingerprint_of(TINY) == fingerprint_of(TINY.model_copy(update={"split": LossSplitSettings()}))
    changed = TINY.model_copy(update={"split": LossSplitSettings(box_share=0.1)})
    assert fingerprint_of(TINY) != fingerprint_of(changed)
