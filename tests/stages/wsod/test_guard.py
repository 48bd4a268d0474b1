"""The guard: contrast of best boxes against the largest proposal, by hand and through the stage."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers import context, draw_discs, instances
from weaksam.config import UserError, fingerprint_of
from weaksam.engine.detectors.result import DetectorResult
from weaksam.engine.log import RunLog
from weaksam.models.wsod.extent import CellMap
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.stages import clues, proposals, wsod
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.guard import GuardSignals, JudgedPhoto, guard_signals, with_largest
from weaksam.structures.instances import Instances

TINY = WsodSettings(long_side=128, reduced=8, hidden=16, roi_size=2, num_epochs=1, warmup_steps=2, num_branches=1)


def photo(inside: list[float], best: dict[int, int]) -> JudgedPhoto:
    """40 x 40 pixels with an object at 8 to 32; a cell for each pixel, whose value is 1 inside."""
    features = torch.zeros(1, 40, 40)
    features[0, 8:32, 8:32] = 1
    boxes = torch.tensor([inside, [8.0, 8, 32, 32]])
    weights = torch.tensor([[1.0, 0.0], [0.0, 0.0]])  # class 0 reads the value, class 1 knows nothing
    return JudgedPhoto(CellMap(features, (1.0, 1.0), (40, 40)), boxes, best, weights)


def test_a_part_stands_out_less_than_the_whole_and_the_whole_more_than_a_box_with_background():
    part = guard_signals([photo([16, 16, 24, 24], {0: 0})], 2, ring=0.25)
    # All cells in and around the part are 1; around the whole they are 0, but for the interpolation at its border
    assert part.best[0] == pytest.approx(0, abs=1e-6) and part.largest[0] == pytest.approx(1, abs=0.1)
    assert part.guarded == (0,) and part.best[1] == part.largest[1] == 0
    whole = guard_signals([photo([0, 0, 40, 40], {0: 1})], 2, ring=0.25)
    # The largest is the photo, which has no surroundings: its mean is 24 * 24 / 1600
    assert whole.best[0] == pytest.approx(1, abs=0.1) and whole.largest[0] == pytest.approx(0.36, abs=0.02)
    assert whole.guarded == ()
    both = guard_signals([photo([16, 16, 24, 24], {0: 0}), photo([16, 16, 24, 24], {0: 1, 1: 0})], 2, ring=0.25)
    assert both.best[0] == pytest.approx((part.best[0] + part.largest[0]) / 2)
    assert guard_signals([], 2, 0.25) == GuardSignals((0.0, 0.0), (0.0, 0.0))


def test_a_guarded_class_has_the_largest_proposal_alone():
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 12, 12]])
    detections = instances([[0, 0, 4, 4], [1, 1, 3, 3], [5, 5, 9, 9]], [0, 1, 0], [0.5, 0.7, 0.2])
    guarded = with_largest(detections, [0], boxes, 0.001)
    assert guarded.boxes.tolist() == [[1, 1, 3, 3], [2, 2, 12, 12]]
    assert guarded.labels.tolist() == [1, 0] and guarded.scores.tolist() == pytest.approx([0.7, 0.5])
    without = with_largest(detections, [2], boxes, 0.001)
    assert len(without) == 4 and without.labels.tolist()[-1] == 2
    assert without.scores.tolist()[-1] == pytest.approx(0.001)
    assert with_largest(detections, [], boxes, 0.1) is detections
    assert with_largest(detections, [0], boxes[:0], 0.1) is detections
    assert len(with_largest(Instances.empty(scored=True), [1], boxes, 0.1)) == 1


def test_the_stage_judges_once_and_changes_the_training_photos_of_guarded_classes_alone(tmp_path: Path, monkeypatch):
    dataset = draw_discs(tmp_path, 6)
    log = RunLog(tmp_path / "log.jsonl")
    run_context = context(tmp_path / "out", dataset, test=dataset, log=log)
    maps = clues.run(run_context, clues.ClueSettings(long_side=128), dataset, "train")
    segmenter, points = build_segmenter(SegmenterSettings(family="tree"), torch.device("cpu")), clues.clue_points(maps)
    stores = {
        split: proposals.run(run_context, proposals.ProposalSettings(), segmenter, points, dataset, split)
        for split in ("train", "test")
    }

    def detected(guard: str, max_boxes: int = 100) -> DetectorResult:
        settings = TINY.model_copy(update={"guard": guard, "max_boxes": max_boxes})
        return wsod.run(run_context, settings, stores, maps, clues.class_maps(maps))

    plain, guarded = detected("off"), detected("surroundings")
    assert plain.weights == guarded.weights and plain.fingerprint == guarded.fingerprint
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (event,) = [event for event in events if event["event"] == "guard"]
    expected = [n for n, b, m in zip(dataset.classes, event["best"], event["largest"], strict=True) if m > b]
    assert event["classes"] == expected
    (path,) = (tmp_path / "out").rglob("guard-0.2.json")
    monkeypatch.setattr("weaksam.stages.wsod.guard.guard_signals", None)  # what is stored is not judged again
    assert detected("surroundings").stores["train"].folder == guarded.stores["train"].folder
    # As if red were worse
    is_red = torch.tensor([float(name == "red") for name in dataset.classes])
    signals = {"best": (-is_red).tolist(), "largest": (2 * is_red - 1.5).tolist()}
    monkeypatch.setattr("weaksam.stages.wsod.guard.read_record", lambda path: signals)
    forced = detected("surroundings", 99)
    red = dataset.classes.index("red")
    for sample in dataset:
        of_photo, before = forced.detections("train")[sample.image_id], plain.detections("train")[sample.image_id]
        reds = of_photo[of_photo.labels == red]
        if red in sample.tags:
            boxes = stores["train"][sample.image_id]["boxes"][: TINY.num_proposals]
            sizes = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
            assert len(reds) == 1 and torch.equal(reds.boxes[0], boxes[sizes.argmax()])
        others, others_before = of_photo[of_photo.labels != red], before[before.labels != red]
        torch.testing.assert_close(others.boxes, others_before.boxes)
        on_test = forced.detections("test")[sample.image_id]
        torch.testing.assert_close(on_test.boxes, plain.detections("test")[sample.image_id].boxes)
    assert path.is_file()


def test_it_wants_frozen_features_and_is_off_by_default(tmp_path: Path) -> None:
    assert fingerprint_of(WsodSettings()) == fingerprint_of(WsodSettings(guard="off"))
    assert fingerprint_of(WsodSettings()) != fingerprint_of(WsodSettings(guard="surroundings"))
    settings = WsodSettings(mode="end_to_end", guard="surroundings")
    with pytest.raises(UserError, match=r"wants the frozen features of wsod\.mode=frozen, found") as caught:
        wsod.run(None, settings, {}, None, None)
    assert "\n" not in str(caught.value)
