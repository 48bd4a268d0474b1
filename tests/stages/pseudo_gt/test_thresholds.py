"""Thresholds per class from tags alone, by hand and against a plain loop, and what falls below them."""

import json

import numpy as np
import pytest

from tests import helpers
from tests.helpers import draw_squares, instances
from weaksam.config import fingerprint_of
from weaksam.engine.log import RunLog
from weaksam.stages.pseudo_gt import AdaptiveSettings, Top1Settings, choose_all, run
from weaksam.stages.pseudo_gt.thresholds import class_thresholds, f_beta_threshold
from weaksam.structures.instances import Instances

TAGS = {"a": (0,), "b": (0,), "c": (1,), "d": (1,), "e": ()}
HERE, THERE = [0.0, 0, 10, 10], [20.0, 20, 30, 30]
DETECTIONS = {
    "a": instances([HERE, THERE], [0, 0], [0.9, 0.3]),
    "b": instances([HERE], [0], [0.35]),
    "c": instances([HERE, THERE], [0, 1], [0.4, 0.2]),
    "d": instances([HERE], [0], [0.1]),
}


def test_quantile_of_the_best_scores_without_the_tag():
    # Class 0 has best scores 0.4, 0.1 and 0 on the photos without it; class 1 none
    def at(quantile: float) -> list[float]:
        settings = Top1Settings(class_threshold="quantile", threshold_quantile=quantile)
        return class_thresholds(DETECTIONS, TAGS, 2, settings)

    assert at(1.0) == pytest.approx([0.4, 0.0]) and at(0.5) == pytest.approx([0.1, 0.0])
    assert at(0.0) == [0.0, 0.0]


def plain_f_beta(tagged, untagged, beta: float) -> float:
    """The same, score by score."""
    scores = sorted({score for of_photo in tagged for score in of_photo})

    def right(score: float) -> tuple[float, float]:
        n = sum(sum(s >= score for s in of_photo) for of_photo in tagged) / len(tagged)
        m = sum(sum(s >= score for s in of_photo) for of_photo in untagged) / len(untagged)
        return max(0.0, n - m), n

    most = max(right(score)[0] for score in scores)
    best, threshold = 0.0, 0.0
    for score in scores:
        true, n = right(score)
        if most and true:
            precision, recall = true / n, true / most
            value = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
            if value > best + 1e-12:
                best, threshold = value, score
    return threshold


def test_f_beta_by_hand():
    tagged, untagged = [np.array([0.9, 0.3]), np.array([0.35])], [np.array([0.4]), np.array([0.1]), np.array([])]
    # Right ones a photo: 1.5 - 1/3 at 0.3, 1 - 1/3 at 0.35, 0.5 at 0.9; precision 0.78, 0.67 and 1
    assert f_beta_threshold(tagged, untagged, 1.0) == 0.3
    assert f_beta_threshold(tagged, untagged, 0.1) == 0.9
    assert f_beta_threshold([np.array([0.1])], [np.array([0.5, 0.6])], 1.0) == 0.0


def test_f_beta_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(20):
        tagged = [rng.random(rng.integers(1, 6)).round(2) for _ in range(6)]
        untagged = [rng.random(rng.integers(0, 5)).round(2) * 0.7 for _ in range(9)]
        beta = float(rng.choice([0.3, 0.5, 1, 2]))
        assert f_beta_threshold(tagged, untagged, beta) == plain_f_beta(tagged, untagged, beta)


def test_where_the_tags_cannot_tell_every_box_is_believed():
    everywhere = dict.fromkeys(TAGS, (0,))
    for rule in ("quantile", "f_beta"):
        settings = Top1Settings(class_threshold=rule)
        assert class_thresholds(DETECTIONS, everywhere, 2, settings) == [0.0, 0.0]
        assert class_thresholds({}, TAGS, 2, settings) == [0.0, 0.0]
        believed = choose_all(DETECTIONS, everywhere, 2, settings)
        assert sum(map(len, believed.values())) == 4 and not any(bool(b.crowd.any()) for b in believed.values())


def test_boxes_below_are_ignored_unless_a_believed_one_stands_for_them():
    settings = AdaptiveSettings(min_score_norm=0, class_threshold="quantile", threshold_quantile=1.0)
    chosen = choose_all(DETECTIONS, TAGS, 2, settings)
    # 0.4 is wanted: of photo a the second box is ignored, of b the only one
    assert chosen["a"].boxes.tolist() == [HERE, THERE] and chosen["a"].crowd.tolist() == [False, True]
    assert chosen["b"].crowd.tolist() == [True] and chosen["c"].crowd.tolist() == [False]
    both = choose_all(DETECTIONS, TAGS, 2, settings.model_copy(update={"ignore_from": 0.01}))
    assert both["a"].boxes.tolist() == [HERE, THERE] and both["a"].crowd.tolist() == [False, True]
    # A part of a believed box stays background
    part = {**DETECTIONS, "a": instances([HERE, [1.0, 1, 5, 5]], [0, 0], [0.9, 0.3])}
    settings = settings.model_copy(update={"containment": 1.0})
    assert choose_all(part, TAGS, 2, settings)["a"].boxes.tolist() == [HERE]


def test_a_class_that_loses_all_its_boxes_is_named_and_thresholds_are_logged(tmp_path, capsys):
    squares = draw_squares(tmp_path)
    context = helpers.context(tmp_path / "out", squares, log=RunLog(tmp_path / "log.jsonl"))
    # Blue is on photos 1 and 3 and is best detected elsewhere
    detections = {
        "0.png": instances([HERE], [1], [0.9]),
        "1.png": instances([HERE, THERE], [0, 1], [0.5, 0.2]),
        "3.png": instances([HERE], [1], [0.3]),
    }
    store = run(context, Top1Settings(class_threshold="quantile", threshold_quantile=1.0), detections)
    assert store["1.png"]["crowd"].tolist() == [0, 1] and store["3.png"]["crowd"].tolist() == [1]
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (scores,) = [event["scores"] for event in events if event["event"] == "class thresholds"]
    assert scores == pytest.approx({"red": 0.0, "blue": 0.9})
    assert "tagged classes without any box, which the detector will not learn: blue" in capsys.readouterr().err


def test_off_changes_no_fingerprint_and_nothing_else():
    assert fingerprint_of(Top1Settings()) == fingerprint_of(Top1Settings(class_threshold="off"))
    assert fingerprint_of(Top1Settings()) != fingerprint_of(Top1Settings(class_threshold="f_beta"))
    plain = choose_all(DETECTIONS, TAGS, 2, Top1Settings())
    assert all(boxes.crowd is None for boxes in plain.values()) and isinstance(plain["e"], Instances)
