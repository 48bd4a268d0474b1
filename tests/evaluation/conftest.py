"""Define the truth that several tests of the evaluation measure against."""

import pytest

from tests.helpers import instances
from weaksam.evaluation.truth import Truth


@pytest.fixture
def truth():
    """Image a: a cat and a dog of 10 x 10; image b: a cat."""
    objects = {
        "a": instances([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1]),
        "b": instances([[5, 5, 15, 15]], [0]),
    }
    return Truth(objects, {"a": (0, 1), "b": (0,)}, {"a": (40, 40), "b": (40, 40)}, 2)
