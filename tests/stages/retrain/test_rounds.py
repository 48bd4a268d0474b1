"""The choice among weak, retrained and merged detections, what it writes, and further rounds of training."""

import json
from pathlib import Path

import pytest
import torch

from tests import helpers
from tests.helpers import UNTRAINED_BACKBONE, Stopped, draw_squares, instances, stopped_after_first_epoch
from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import detection_store, instances_of
from weaksam.engine.detectors.result import DetectorResult
from weaksam.engine.log import RunLog
from weaksam.stages.pseudo_gt.topk import topk_pseudo_gt
from weaksam.stages.retrain import RetrainResult, RetrainSettings, Teaching, run, run_and_choose
from weaksam.stages.retrain.candidates import voted
from weaksam.stages.retrain.choice import LEAST_LEAD, choose
from weaksam.stages.retrain.rounds import joined_boxes, shortened
from weaksam.stages.retrain.settings import NETWORK_ALONE, ChoiceSettings, network_settings
from weaksam.structures.box_fusion import weighted_boxes_fusion
from weaksam.structures.box_voting import NO_VOTING, BoxVotingSettings
from weaksam.structures.instances import Instances

TINY = RetrainSettings(
    short_side=64,
    long_side=96,
    fpn_channels=16,
    representation=32,
    num_epochs=2,
    batch_size=3,
    warmup_steps=2,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    max_boxes=10,
    flip_test=False,
    box_voting=NO_VOTING,
)
EMPTY = Instances.empty(scored=True)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return draw_squares(tmp_path_factory.mktemp("squares"))


def context(out, dataset):
    return helpers.context(out, dataset, test=dataset, backbone=UNTRAINED_BACKBONE, log=RunLog(out / "log.jsonl"))


def truth_of(dataset):
    return {sample.image_id: sample.truth for sample in dataset}


def sealed(folder: Path, dataset, detections) -> DetectorResult:
    """A detector that detected ``detections`` (by image id) on both splits."""
    stores = {}
    for split in ("train", "test"):
        store = detection_store(folder / split, "wsod", f"{folder.name} {split}", dataset, masks=False)
        rows = {i: detections.get(i, EMPTY) for i in dataset.image_ids}
        stores[split] = store.fill(
            lambda i, rows=rows: {"boxes": rows[i].boxes, "labels": rows[i].labels, "scores": rows[i].scores}
        )
    return DetectorResult(folder / "weights.safetensors", folder.name, stores, UNTRAINED_BACKBONE)


def weak_detector(folder: Path, dataset, score: float = 0.9) -> DetectorResult:
    """A weak detector that finds every true box with the same score."""
    detections = {i: truth.replace(scores=torch.full((len(truth),), score)) for i, truth in truth_of(dataset).items()}
    return sealed(folder, dataset, detections)


def top1_of(dataset):
    """The rule top-1 on the tags of ``dataset``."""
    return lambda detections: {i: topk_pseudo_gt(boxes, dataset.by_id[i].tags) for i, boxes in detections.items()}


def chosen(context, settings: RetrainSettings, weak: DetectorResult) -> RetrainResult:
    """What the stage hands on of a training on the true boxes."""
    dataset = context.train
    teaching = Teaching(context, settings, weak, {}, top1_of(dataset))
    return run_and_choose(teaching, truth_of(dataset))


def changed(**values: object) -> RetrainSettings:
    return TINY.model_copy(update=values)


def events(out: Path, name: str) -> list[dict]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_merged_unless_one_detector_leads_by_its_tags(tmp_path, squares):
    right = weak_detector(tmp_path / "right", squares)
    none = sealed(tmp_path / "none", squares, {})
    stores = {"weak": right.stores, "retrained": none.stores, "merged": right.stores}
    choice = choose(squares, stores)
    assert choice.name == "merged" and choice.signals == pytest.approx({"weak": 1, "retrained": 2 / 3, "merged": 1})
    choice = choose(squares, {**stores, "merged": none.stores})
    assert choice.name == "weak" and "1.000 of weak against 0.667 of merged" in choice.reason
    choice = choose(squares, {"weak": none.stores, "retrained": right.stores, "merged": none.stores})
    assert choice.name == "retrained"
    assert choose(squares, stores, "weak").reason == "retrain.choice=weak"
    only_test = {name: {"test": of_split["test"]} for name, of_split in stores.items()}
    choice = choose(squares, only_test)
    assert choice.name == "merged" and choice.signals == {} and "nothing to compare" in choice.reason


def test_old_boxes_stay_or_are_ignored_where_no_new_one_shows_the_object():
    old = {
        "a": instances([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 10]], [0, 0, 1]),
        "b": instances([[1, 1, 2, 2]]),
        "d": instances([[5, 5, 9, 9], [0, 0, 3, 3]], [0, 1], crowd=[True, False]),
    }
    new = {"a": instances([[0, 0, 10, 5]], [0], [0.5]), "c": instances([[3, 3, 4, 4]], [1], [0.2])}
    joined = joined_boxes(new, old)
    # IoU 0.5 with the new box of class 0: the same object. Another old box of class 0, which has a new one, is ignored;
    # class 1 has no new box
    assert joined["a"].boxes.tolist() == [[0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 10, 10]]
    assert joined["a"].labels.tolist() == [0, 0, 1] and joined["a"].scores is None
    assert joined["a"].crowd.tolist() == [False, True, False]
    assert joined["b"].boxes.tolist() == [[1, 1, 2, 2]] and joined["b"].crowd.tolist() == [False]
    assert joined["c"].labels.tolist() == [1] and len(joined["c"].without_crowd()) == 1
    assert joined["d"].crowd.tolist() == [True, False]
    assert len(joined_boxes({"e": Instances.empty()}, {})["e"]) == 0


def test_chosen_boxes_move_to_the_vote_of_proposals(tmp_path, squares):
    detections = sealed(tmp_path / "d", squares, {"0.png": instances([[0, 0, 10, 10]], [1], [0.5])})
    # IoU 0.8 with the box, which moves half of the way to it
    proposals = sealed(tmp_path / "p", squares, {"0.png": instances([[0, 0, 10, 8]], [0], [0.7])})
    settings = changed(box_voting=BoxVotingSettings())
    stores = voted(context(tmp_path, squares), settings, detections.stores, proposals.stores, "retrain")
    boxes = instances_of(stores["train"])
    torch.testing.assert_close(boxes["0.png"].boxes, torch.tensor([[0.0, 0, 10, 9]]))
    assert boxes["0.png"].scores.tolist() == [0.5] and boxes["0.png"].labels.tolist() == [1]
    assert len(boxes["1.png"]) == 0 and set(stores) == {"train", "test"}
    assert voted(context(tmp_path, squares), TINY, detections.stores, {}, "retrain") is detections.stores


def test_what_is_chosen_changes_no_network_and_is_found_again():
    chosen_otherwise = changed(choice="weak", rounds=3, box_voting=BoxVotingSettings(), fusion_iou=0.5)
    assert fingerprint_of(chosen_otherwise) != fingerprint_of(TINY)
    assert fingerprint_of(network_settings(chosen_otherwise)) == fingerprint_of(network_settings(TINY))
    # As before there was a choice: none of its fields counts
    assert set(NETWORK_ALONE) == set(ChoiceSettings.model_fields)
    assert all(ChoiceSettings._as_before[name] == value for name, value in NETWORK_ALONE.items())


def test_a_round_is_a_share_of_the_training_and_at_least_one_epoch():
    assert shortened(changed(num_epochs=12, round_share=0.5)).num_epochs == 6
    assert shortened(changed(num_epochs=1, round_share=0.1)).num_epochs == 1
    assert shortened(changed(num_steps=90, round_share=1 / 3)).num_steps == 30


def test_chosen_and_network_detections_are_files_of_their_own(tmp_path, squares):
    weak = weak_detector(tmp_path / "weak", squares)
    result = chosen(context(tmp_path, squares), changed(choice="merged"), weak)
    network = result.network_stores["test"]
    merged = {
        i: weighted_boxes_fusion([weak.detections("test")[i], boxes])[torch.arange(10)]
        for i, boxes in instances_of(network).items()
    }
    for image_id, boxes in result.detections("test").items():
        torch.testing.assert_close(boxes.boxes, merged[image_id].boxes)
        torch.testing.assert_close(boxes.scores, merged[image_id].scores)
    folder = tmp_path / "retrain"
    assert {path.name for path in folder.glob("*.json")} == {
        f"{files}_{split}.json" for files in ("detections", "network_detections") for split in ("train", "test")
    }
    # The network is the one that `run` trains alone, and what it detects does not depend on the choice
    alone = run(context(tmp_path / "alone", squares), TINY, truth_of(squares))
    assert alone.fingerprint == result.fingerprint and alone.weights.read_bytes() == result.weights.read_bytes()
    files = [folder / "network_detections_test.json", tmp_path / "alone" / "retrain" / "detections_test.json"]
    assert files[0].read_bytes() == files[1].read_bytes()
    stamp = result.weights.stat().st_mtime_ns
    again = chosen(context(tmp_path, squares), changed(choice="weak"), weak)
    assert again.weights.stat().st_mtime_ns == stamp and again.stores == weak.stores
    boxes = json.loads((folder / "detections_test.json").read_text())
    assert [entry["score"] for entry in boxes] == pytest.approx([0.9] * len(boxes)) and boxes


@pytest.mark.slow
def test_a_round_teaches_the_network_from_its_last_weights_and_resumes_to_the_same_bytes(tmp_path, squares):
    settings = changed(choice="merged", rounds=1, num_epochs=4)
    weak = weak_detector(tmp_path / "weak", squares)
    first = chosen(context(tmp_path / "a", squares), settings, weak)
    (event,) = events(tmp_path / "a", "round")
    assert event["kept"] == (event["after"] > event["before"] - LEAST_LEAD) and first.rounds == int(event["kept"])
    weights = list((tmp_path / "a").glob("retrain/store/weights-*/weights.safetensors"))
    assert len(weights) == 2 and first.weights in weights
    killed = context(tmp_path / "b", squares)
    before = chosen(killed, changed(choice="merged", num_epochs=4), weak)
    taught = joined_boxes(top1_of(squares)(before.detections("train")), truth_of(squares))
    for image_id, boxes in first.pseudo_gt.items():
        expected = taught if first.rounds else truth_of(squares)
        torch.testing.assert_close(boxes.boxes, expected[image_id].boxes)
    with pytest.raises(Stopped):
        chosen(stopped_after_first_epoch(killed), settings, weak)
    second = chosen(killed, settings, weak)
    assert second.weights.read_bytes() == first.weights.read_bytes() and second.rounds == first.rounds
    for name in ("detections_test.json", "network_detections_test.json"):
        assert len({(tmp_path / out / "retrain" / name).read_bytes() for out in ("a", "b")}) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"choice": "weak"}, "the weak detector was chosen"),
        ({"choice": "merged", "detect_train": False}, "no detections on the training photos"),
        ({"choice": "retrained", "min_score": 1.0}, "the teacher finds no box of a tag"),
    ],
)
def test_no_round_without_a_teacher(tmp_path, squares, changes, reason):
    settings = changed(rounds=3, num_epochs=1, **changes)
    weak = weak_detector(tmp_path / "weak", squares)
    result = chosen(context(tmp_path, squares), settings, weak)
    (event,) = events(tmp_path, "round left out")
    assert reason in event["reason"] and event["round"] == 1 and result.rounds == 0
    assert len(list((tmp_path / "retrain" / "store").glob("weights-*"))) == 1
    (event,) = events(tmp_path, "choice")
    assert event["choice"] == changes["choice"] and event["rounds"] == 0
