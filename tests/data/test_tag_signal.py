"""Tags from which nothing can be learnt are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from weaksam.config import UserError
from weaksam.data.tag_signal import check_tags
from weaksam.structures.dataset import Dataset, Sample

CLASSES = ("red", "green", "blue")


def with_tags(tags: list[tuple[int, ...]], classes: tuple[str, ...] = CLASSES) -> Dataset:
    samples = [Sample(f"{i}.png", Path(f"{i}.png"), (9, 9), one, None, i, "0") for i, one in enumerate(tags)]
    return Dataset("train", classes, tuple(range(len(classes))), tuple(samples))


def test_tags_that_teach_nothing_are_one_sentence():
    with pytest.raises(UserError, match=r"wanted a photo tagged 'green' to learn from, found none among 2 \(nor 1 oth"):
        check_tags(with_tags([(0,), ()]))
    with pytest.raises(UserError, match="wanted at least two classes to tell apart, found 'red' on every photo"):
        check_tags(with_tags([(0,), (0,)], ("red",)))
    check_tags(with_tags([(0,), ()], ("red",)))  # one class can be told from its absence
    check_tags(with_tags([(0, 1, 2)]))
