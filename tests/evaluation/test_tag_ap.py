"""Average precision of tags on values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from weaksam.evaluation.tag_ap import tag_average_precision, tag_mean_average_precision


def test_average_precision_by_hand():
    """Class 0 ranks yes, no, yes: (1/1 + 2/3) / 2. Class 1: its one photo ties with another, 1/2. Class 2 has none."""
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.8, 0.5, 0.2], [0.7, 0.1, 0.3]])
    tags = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    found = tag_average_precision(scores, tags)
    assert found[:2].tolist() == pytest.approx([5 / 6, 1 / 2]) and math.isnan(found[2])
    assert tag_mean_average_precision(scores, tags) == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert tag_mean_average_precision(scores, torch.zeros(3, 3)) == 0


def test_average_precision_counts_photos_one_by_one():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (30, 2), generator=generator) / 5  # many ties
    tags = torch.randint(0, 2, (30, 2), generator=generator).float()
    for label, found in enumerate(tag_average_precision(scores, tags).tolist()):
        shares = []
        for photo in tags[:, label].nonzero()[:, 0]:
            reached = scores[:, label] >= scores[photo, label]
            shares.append(tags[reached, label].mean().item())
        assert found == pytest.approx(sum(shares) / len(shares))
