"""The soft maximum and the views that train a backbone on tags."""

from __future__ import annotations

import math

import pytest
import torch

from weaksam.models.cam.tag_network import soft_maximum, vary_view


def test_soft_maximum_by_hand() -> None:
    maps = torch.tensor([[[0.0, math.log(3.0)]], [[2.0, 2.0]]])
    assert soft_maximum(maps, 1.0).tolist() == pytest.approx([math.log(2.0), 2.0])
    assert soft_maximum(maps, 1e-3)[0].item() == pytest.approx(math.log(3.0) / 2, abs=1e-3)
    assert soft_maximum(maps, 1e3)[0].item() == pytest.approx(math.log(3.0), abs=1e-3)


def test_varied_views_are_shifts_of_the_photo_or_its_mirror_image() -> None:
    torch.manual_seed(0)
    image = torch.arange(1.0, 13.0).reshape(1, 3, 4)
    shifts = []
    for _ in range(40):
        view = vary_view(image, border=1)
        assert view.shape == image.shape
        padded = [torch.nn.functional.pad(view, (1, 1, 1, 1)) for view in (image, image.flip(2))]
        places = [
            (which, top, left)
            for which in range(2)
            for top in range(3)
            for left in range(3)
            if torch.equal(padded[which][:, top : top + 3, left : left + 4], view)
        ]
        assert len(places) == 1
        shifts += places
    assert len(set(shifts)) > 10
