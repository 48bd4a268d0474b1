"""Which photos and detections a gallery shows."""

import pytest
import torch

from tests.helpers import instances
from weaksam.report.gallery import confident, spread
from weaksam.structures.instances import Instances


def test_confident_keeps_the_good_ones_else_the_best():
    detections = instances([[0, 0, n, n] for n in (1, 2, 3)], scores=[0.9, 0.1, 0.5])
    assert confident(detections).scores.tolist() == pytest.approx([0.9, 0.5])
    assert confident(detections[torch.tensor([1])]).scores.tolist() == pytest.approx([0.1])
    assert len(confident(Instances.empty())) == 0


def test_spread_takes_first_and_last():
    assert spread(list(range(11)), 3) == [0, 5, 10]
    assert spread([7], 3) == [7] and spread([], 3) == []
