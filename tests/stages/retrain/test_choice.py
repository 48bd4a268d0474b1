"""The signal by which the retrain stage chooses whose detections it hands on, by hand."""

import pytest

from tests.helpers import draw_squares, instances
from weaksam.evaluation.tag_ap import best_scores
from weaksam.stages.retrain.choice import tag_signal
from weaksam.structures.instances import Instances


def test_the_signal_is_the_ap_of_the_best_score_against_the_tags(tmp_path):
    squares = draw_squares(tmp_path)
    # Tags of the six photos: red; red, blue; red; red, blue; red; red. Blue is right on photos 1 and 3.
    detections = {
        "0.png": instances([[0, 0, 4, 4], [0, 0, 9, 9]], [1, 0], [0.7, 0.6]),
        "1.png": instances([[0, 0, 4, 4], [0, 0, 9, 9], [0, 0, 5, 5]], [1, 1, 0], [0.2, 0.9, 0.1]),
        "3.png": instances([[0, 0, 4, 4]], [1], [0.5]),
    }
    assert best_scores(detections["1.png"], 2).tolist() == pytest.approx([0.1, 0.9])
    # Blue ranks photo 1, then 0 (wrong), then 3: (1 + 2 / 3) / 2; every photo is red: 1
    assert tag_signal(squares, detections) == pytest.approx((1 + 5 / 6) / 2)
    # No detection: photos tie, blue has the share of photos that show it
    assert tag_signal(squares, {}) == pytest.approx((1 + 1 / 3) / 2)
    assert best_scores(Instances.empty(), 2).tolist() == [0, 0]
