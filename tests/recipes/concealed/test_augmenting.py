"""Augmentation keeps scribble labels, moves all maps alike and trusts nothing beyond the photo."""

import numpy as np
import pytest
import torch

from weaksam.recipes.concealed.augmenting import LabelledView, _cropped, _rotated, augmented, resized_labels, view_of


def labelled(side: int = 64) -> LabelledView:
    """A background stroke down the middle, an object in a corner that mask, pixels and labels share."""
    labels = torch.full((1, side, side), -1, dtype=torch.int8)
    labels[:, 4:-4, side // 2 - 2 : side // 2 + 2] = 0
    labels[:, 6:18, 6:18] = 1
    mask = (labels == 1).float()
    pixels = (mask * 200).to(torch.uint8).expand(3, -1, -1).contiguous()
    return LabelledView(pixels, mask, torch.ones(1, side, side), labels)


@pytest.mark.parametrize("angle", [-14.0, -3.0, 10.0])
def test_a_rotation_makes_no_foreground_of_background_strokes(angle: float) -> None:
    view = labelled()
    alone = torch.where(view.labels == 1, -1, view.labels)
    turned = _rotated(LabelledView(view.pixels, view.mask, view.weights, alone), angle)
    assert set(turned.labels.unique().tolist()) == {-1, 0}
    both = _rotated(view, angle)
    assert set(both.labels.unique().tolist()) == {-1, 0, 1}
    assert both.weights[0, 0, 0] == 0 and both.labels[0, 0, 0] == -1  # beyond the photo
    inside = both.labels == 1
    assert both.mask[inside].mean() > 0.9 and both.pixels[:1][inside].float().mean() > 180


def test_all_maps_move_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        view = augmented(labelled(), generator)
        assert set(view.labels.unique().tolist()) == {-1, 0, 1} and view.labels.dtype == torch.int8
        assert view.pixels.shape == (3, 64, 64) and view.pixels.dtype == torch.uint8
        inside = view.labels == 1
        assert view.mask[inside].mean() > 0.85 and view.mask[view.labels == 0].mean() < 0.05
        assert ((view.mask >= 0) & (view.mask <= 1)).all()
    first, again = (augmented(labelled(), torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(
        torch.equal(values, others) for values, others in zip(vars(first).values(), vars(again).values(), strict=True)
    )


def test_a_crop_takes_the_middle() -> None:
    view = labelled()
    assert _cropped(view, 0.0) is view
    cropped = _cropped(view, 1.0)  # 5 of 64 pixels, from the third on
    assert cropped.labels[0].shape == (64, 64) and (cropped.labels == 1).sum() > (view.labels == 1).sum()


def test_points_survive_shrinking_and_nothing_is_invented() -> None:
    labels = torch.full((90, 120), -1, dtype=torch.int8)
    labels[10, 10], labels[11, 10], labels[80, 119] = 1, 0, 0
    small = resized_labels(labels, 30)
    assert (small == 1).sum() == 1 and (small == 0).sum() == 1
    assert small[3, 2] == 1  # where object and background meet the object stays
    assert small[26, 29] == 0
    grown = resized_labels(small, 60)
    assert (grown == 1).sum() == 4 and set(grown.unique().tolist()) == {-1, 0, 1}
    assert torch.equal(resized_labels(small, 30), small)


def test_a_view_of_any_photo_is_square() -> None:
    image = np.zeros((10, 40, 3), np.uint8)
    fused = torch.zeros(10, 40)
    fused[:, 20:] = 0.5
    view = view_of(image, fused, torch.ones(10, 40), torch.full((10, 40), -1, dtype=torch.int8), 20)
    assert [tuple(values.shape) for values in vars(view).values()] == [(3, 20, 20), *[(1, 20, 20)] * 3]
    assert view.mask[0, :, :9].max() == 0 and view.mask[0, :, 11:].min() == 0.5
