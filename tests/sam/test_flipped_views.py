"""Every view is undone exactly: images, points, boxes, scribbles and masks, also where sides are odd or turned."""

import itertools

import numpy as np
import pytest
import torch

from weaksam.sam.flipped_views import FLIPS, SCALES, FlippedView, draw_views

SIZE = (12, 20)
EVERY = [
    FlippedView(flip, turns, scale) for flip, turns, scale in itertools.product(("none", *FLIPS), range(4), SCALES)
]


def blocks(seed: int = 0) -> torch.Tensor:
    """Labels 0, 1, 2 in blocks of 2 x 2 pixels, which half the resolution still tells apart."""
    small = torch.randint(0, 3, (SIZE[0] // 2, SIZE[1] // 2), generator=torch.Generator().manual_seed(seed))
    return small.repeat_interleave(2, 0).repeat_interleave(2, 1)


@pytest.mark.parametrize("view", EVERY, ids=str)
def test_what_goes_into_a_view_comes_back(view: FlippedView) -> None:
    labels = blocks()
    shown = view.labels(labels)
    assert tuple(shown.shape) == view.size(SIZE)
    assert torch.equal(view.original_labels(shown, SIZE), labels) and shown.dtype == labels.dtype
    masks = torch.stack([labels == 1, labels == 2])
    assert torch.equal(view.original_maps(view.labels(masks), SIZE), masks)
    assert view.labels(masks).dtype == torch.bool
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(5, 2, generator=generator) * torch.tensor([20.0, 12.0])
    assert torch.allclose(view.original_points(view.points(points, SIZE), SIZE), points, atol=1e-5)
    boxes = torch.tensor([[2.0, 1.0, 9.0, 11.0], [0.0, 0.0, 20.0, 12.0]])
    shown_boxes = view.boxes(boxes, SIZE)
    assert (shown_boxes[:, 2:] > shown_boxes[:, :2]).all()
    assert torch.allclose(view.original_boxes(shown_boxes, SIZE), boxes, atol=1e-5)


@pytest.mark.parametrize("view", EVERY, ids=str)
def test_points_boxes_and_pixels_move_alike(view: FlippedView) -> None:
    """A block of the photo is found in the view where its points and its box say, in image, scribble and mask."""
    labels = torch.zeros(SIZE, dtype=torch.int64)
    labels[2:6, 14:18] = 2
    image = np.repeat((labels == 2).numpy()[..., None] * np.uint8(255), 3, axis=2)
    x1, y1, x2, y2 = (int(v) for v in view.boxes(torch.tensor([14.0, 2.0, 18.0, 6.0]), SIZE).round().tolist())
    shown = view.labels(labels)
    inside = torch.zeros_like(shown, dtype=torch.bool)
    inside[y1:y2, x1:x2] = True
    assert torch.equal(shown == 2, inside)
    assert np.array_equal(view.image(image)[..., 0] > 127, inside.numpy())
    x, y = view.points(torch.tensor([15.0, 3.0]), SIZE).tolist()
    assert bool(inside[int(y), int(x)])


def test_a_view_by_hand() -> None:
    labels = torch.tensor([[1, 2, 3], [4, 5, 6]])
    across = FlippedView("horizontal", 1, 1.0)  # 3 2 1 / 6 5 4, then a quarter turn against the clock
    assert across.labels(labels).tolist() == [[1, 4], [2, 5], [3, 6]] and across.size((2, 3)) == (3, 2)
    # The middle of pixel 3 (column 2, row 0) is in the last row and first column
    assert across.points(torch.tensor([2.5, 0.5]), (2, 3)).tolist() == [0.5, 2.5]
    assert torch.equal(FlippedView().labels(labels), labels)
    down = FlippedView("vertical", 2, 1.0)
    assert down.labels(labels).tolist() == [[3, 2, 1], [6, 5, 4]]


def test_odd_sides_keep_places_in_proportion() -> None:
    view, size = FlippedView("horizontal", 3, 0.5), (7, 5)
    assert view.size(size) == (2, 4)  # 5 x 7 turned, halved and rounded to even
    points = torch.tensor([[0.0, 0.0], [5.0, 7.0], [1.3, 6.1]])
    assert torch.allclose(view.original_points(view.points(points, size), size), points, atol=1e-5)
    assert view.original_maps(torch.ones(2, 4), size).shape == (7, 5)
    masks = torch.rand(2, 3, 2, 4) > 0.5
    assert view.original_maps(masks, size).shape == (2, 3, 7, 5)


def test_draws_follow_from_the_generator_and_reach_every_view() -> None:
    first, again = (draw_views(200, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again and set(first) == {view for view in EVERY if view.flip != "none"}
    assert draw_views(0, torch.Generator()) == []
