"""Prompts drawn from masks: boxes, points inside and outside, coarse boxes; and the views that they hold for."""

import numpy as np
import pytest
import torch

from weaksam.recipes.sam_adaptation.networks import mask_logits
from weaksam.recipes.sam_adaptation.prompts import coarse_polygon, draw_prompts, instance_seeds
from weaksam.recipes.sam_adaptation.views import NetworkView, network_view, strong_view, weak_view


def square_mask(x1: int, y1: int, x2: int, y2: int, side: int = 32) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_boxes_are_tight() -> None:
    masks = torch.stack([square_mask(3, 5, 9, 20), square_mask(0, 0, 1, 1)])
    prompts = draw_prompts("box", masks, (20, 32), (1, 2))
    assert prompts.boxes.tolist() == [[3.0, 5.0, 9.0, 20.0], [0.0, 0.0, 1.0, 1.0]] and len(prompts) == 2
    assert len(draw_prompts("box", masks[:0], (20, 32), ())) == 0


def test_a_coarse_mask_is_its_polygon_filled_and_prompts_by_logits() -> None:
    mask = square_mask(4, 4, 24, 24)
    mask[4:6, 12:14] = False  # a notch that no coarse polygon follows
    prompts = draw_prompts("coarse_mask", mask[None], (32, 32), (1,))
    assert prompts.masks is not None and prompts.masks.dtype == torch.bool and len(prompts) == 1
    assert torch.equal(prompts.masks[0], square_mask(4, 4, 24, 24))
    single = draw_prompts("coarse_mask", square_mask(9, 9, 10, 10)[None], (32, 32), (1,))
    assert torch.equal(single.masks[0], square_mask(9, 9, 10, 10))  # the polygon has no area: the mask itself
    assert len(draw_prompts("coarse_mask", mask[None][:0], (32, 32), ())) == 0
    logits = mask_logits(prompts.masks, 16)
    assert logits.shape == (1, 16, 16) and logits[0, 2:12, 2:12].eq(8).all() and logits[0, 0].eq(-8).all()
    assert mask_logits(square_mask(1, 0, 32, 32)[None], 16)[0, 0, 0] == 0  # half a cell inside
    assert torch.equal(prompts[torch.tensor([0])].masks, prompts.masks)


def test_points_lie_inside_then_outside_and_never_on_the_padding() -> None:
    masks = torch.stack([square_mask(3, 5, 9, 15), square_mask(20, 2, 22, 4)])
    prompts = draw_prompts("point", masks, (16, 32), instance_seeds(0, "a.jpg", 2, 0), 50)
    assert prompts.points.shape == (2, 100, 2) and prompts.labels[0].tolist() == [1] * 50 + [0] * 50
    for mask, points in zip(masks, prompts.points, strict=True):
        x, y = points.long().T
        assert mask[y[:50], x[:50]].all() and not mask[y[50:], x[50:]].any() and y.max() < 16
        assert (points - points.floor() == 0.5).all()
    again = draw_prompts("point", masks, (16, 32), instance_seeds(0, "a.jpg", 2, 0), 50)
    assert torch.equal(prompts.points, again.points)
    later = draw_prompts("point", masks, (16, 32), instance_seeds(0, "a.jpg", 2, 1), 50)
    assert not torch.equal(prompts.points, later.points)
    # An instance's points follow from its own seed, whatever other instances there are
    alone = draw_prompts("point", masks[1:], (16, 32), instance_seeds(0, "a.jpg", 2, 0)[1:], 50)
    assert torch.equal(alone.points[0], prompts.points[1])
    assert draw_prompts("point", masks[:0], (16, 32), (), 5).points.shape == (0, 10, 2)


def test_an_instance_that_covers_the_photo_has_its_outside_on_the_padding() -> None:
    prompts = draw_prompts("point", square_mask(0, 0, 32, 16)[None], (16, 32), (3,), 2)
    assert prompts.points[0, 2:].tolist() == [[31.5, 31.5]] * 2


def test_a_coarse_polygon_by_hand() -> None:
    # A square of 20 with a bump of 2 on its upper side: its length is 84, the tolerance 4.2, so the bump goes
    ring = np.array([[0, 0], [9, 0], [9, -2], [11, -2], [11, 0], [20, 0], [20, 20], [0, 20]], dtype=float)
    assert coarse_polygon(ring).tolist() == [[0, 0], [20, 0], [20, 20], [0, 20]]
    # A bump of 9 stays, up to its worst corner on each side
    tall = ring.copy()
    tall[2:4, 1] = -9
    assert coarse_polygon(tall)[:, 1].min() == -9


def test_a_coarse_box_shrinks_thin_ends_and_falls_back_to_the_tight_box() -> None:
    mask = square_mask(4, 4, 24, 24)
    mask[13, 24:27] = True  # a hair of three pixels
    prompts = draw_prompts("coarse_box", mask[None], (32, 32), (0,))
    assert prompts.boxes.tolist() == [[4.0, 4.0, 24.0, 24.0]]
    thin = draw_prompts("coarse_box", square_mask(4, 4, 5, 6)[None], (32, 32), (0,))
    assert thin.boxes.tolist() == [[4.0, 4.0, 5.0, 6.0]]


def photo() -> NetworkView:
    image = np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8)
    masks = torch.zeros(2, 20, 40, dtype=torch.bool)
    masks[0, 2:8, 3:10], masks[1, 10:20, 30:40] = True, True
    return network_view(image, masks, 32)


def test_the_input_keeps_proportions_and_is_padded_at_the_lower_right() -> None:
    view = photo()
    assert view.covered == (16, 32) and view.pixels.shape == (3, 16, 32) and view.masks.shape == (2, 32, 32)
    assert not view.masks[:, 16:].any() and view.masks[1, 15, 31]
    # Pixels whose middle, times 1.25, lies in the mask: x 30 of 40 begins at 24, y 10 of 20 at 8
    assert view.masks[1].nonzero().amin(dim=0).tolist() == [8, 24]


@pytest.mark.parametrize("seed", range(8))
def test_weak_and_strong_view_have_one_geometry(seed: int) -> None:
    view = photo()
    weak, (down, across) = weak_view(view, torch.Generator().manual_seed(seed))
    strong = strong_view(weak, torch.Generator().manual_seed(seed))
    dims = [dim for dim, flipped in ((1, down), (2, across)) if flipped]
    assert torch.equal(weak.pixels, view.pixels.flip(dims) if dims else view.pixels)
    assert torch.equal(weak.masks[:, :16], view.masks[:, :16].flip(dims) if dims else view.masks[:, :16])
    assert torch.equal(strong.masks, weak.masks) and strong.pixels.shape == weak.pixels.shape
    # Colours alone: a pixel that the weak view has twice is alike twice unless a shadow falls on one of them
    assert strong.pixels.dtype == torch.uint8


def test_all_flips_are_drawn() -> None:
    view = photo()
    drawn = {weak_view(view, torch.Generator().manual_seed(seed))[1] for seed in range(40)}
    assert drawn == {(False, False), (False, True), (True, False), (True, True)}
