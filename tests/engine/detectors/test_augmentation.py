"""Views of a training photo: boxes and masks move with the pixels, and the draw follows from the generator."""

import torch

from tests.helpers import instances
from weaksam.engine.detectors.augmentation import AugmentSettings, change_colours, vary, view_size
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask


def test_a_view_moves_boxes_and_masks_with_the_pixels():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:20, 30:50] = 255
    mask = image[0] > 0
    box = instances([[30, 10, 50, 20]], [1]).replace(masks=(rle_from_mask(mask),))
    views = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        settings = AugmentSettings(smallest_scale=0.5, largest_scale=2.0, colour_jitter=0)
        view, moved, masks = vary(image, box, settings, generator)
        x1, y1, x2, y2 = moved.boxes[0].round().int().tolist()
        bright = view[0] > 0.5
        inside = torch.zeros_like(bright)
        inside[y1:y2, x1:x2] = True
        # Box, mask and bright pixels are the same region, up to the rounding of one pixel at each border
        assert (bright ^ inside).sum() <= 2 * ((x2 - x1) + (y2 - y1))
        assert (bright ^ masks[0]).sum() <= 2 * ((x2 - x1) + (y2 - y1))
        views.add(bool(x1 < view.shape[2] / 3))  # mirrored: 10..30 of 60; not mirrored: 30..50
    assert views == {True, False}


def test_the_draw_of_a_view_follows_from_the_generator_alone():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    views = [vary(image, Instances.empty(), AugmentSettings(), torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(views[0], views[1])
    assert views[0].shape != views[2].shape or not torch.equal(views[0], views[2])


def test_colours_change_by_the_stated_share():
    image = torch.full((3, 2, 2), 0.5)
    # Draws 1, 0.5, 0.5: brightness times 1.2, contrast and saturation unchanged; a grey photo stays grey
    torch.testing.assert_close(change_colours(image, (1.0, 0.5, 0.5), 0.2), torch.full((3, 2, 2), 0.6))
    torch.testing.assert_close(change_colours(image, (0.0, 0.5, 0.5), 0.2), torch.full((3, 2, 2), 0.4))
    assert change_colours(image, (1.0, 1.0, 1.0), 0.0) is image


def test_listed_scales_are_taken_instead_of_the_range():
    views = AugmentSettings(scales=(0.5, 2.0))
    sizes = {view_size((64, 96), views, torch.Generator().manual_seed(seed)) for seed in range(20)}
    assert sizes == {(32, 48), (128, 192)}


def test_a_view_is_cut_to_a_window_with_its_boxes_and_masks():
    image = torch.zeros(3, 96, 128, dtype=torch.uint8)
    image[:, 30:60, 40:100] = 255
    box = instances([[40, 30, 100, 60], [12, 6, 24, 16]], [1, 0])
    corner = torch.zeros(96, 128, dtype=torch.bool)
    corner[6:16, 12:24] = True
    box = box.replace(masks=(rle_from_mask(image[0] > 0), rle_from_mask(corner)))
    settings = AugmentSettings(smallest_scale=1, largest_scale=1, crop_size=64, colour_jitter=0, flip=False)
    lefts, gone = set(), 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        assert view_size((96, 128), settings, torch.Generator().manual_seed(seed)) == (64, 64)
        view, moved, masks = vary(image, box, settings, generator)
        assert view.shape == (3, 64, 64) and masks.shape == (2, 64, 64)
        assert torch.equal(view[0] > 0.5, masks[0])
        x1, y1, x2, y2 = moved.boxes[0].int().tolist()
        inside = torch.zeros_like(masks[0])
        inside[y1:y2, x1:x2] = True
        assert torch.equal(inside, masks[0])
        area = ((moved.boxes[1, 2:] - moved.boxes[1, :2]).prod()).item()
        assert area == masks[1].sum()
        lefts.add(x1)
        gone += int(area == 0)
    assert len(lefts) > 5 and 0 < gone < 20


def test_a_view_no_larger_than_the_window_is_left_whole():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    settings = AugmentSettings(smallest_scale=1, largest_scale=1)
    views = [
        vary(
            image, Instances.empty(), settings.model_copy(update={"crop_size": size}), torch.Generator().manual_seed(1)
        )
        for size in (None, 64)
    ]
    assert torch.equal(views[0][0], views[1][0])


def test_large_scale_jittering_reaches_from_a_tenth_to_twice_the_size():
    settings = AugmentSettings(smallest_scale=0.1, largest_scale=2, crop_size=1024)
    sizes = [view_size((768, 1024), settings, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert min(size[1] for size in sizes) < 160 and max(size[1] for size in sizes) == 1024
    assert sum(size == (1024, 1024) for size in sizes) > 60  # both sides are cut from a factor of 4/3 on


def test_no_view_is_longer_than_the_longest():
    views = AugmentSettings(scales=(0.5, 2.0), longest_view=120)
    sizes = {view_size((64, 96), views, torch.Generator().manual_seed(seed)) for seed in range(20)}
    assert sizes == {(32, 48), (80, 120)}
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    box = instances([[16, 32, 48, 64]])
    plain = AugmentSettings(scales=(1.25,), flip=False, colour_jitter=0)  # what the limit makes of 2
    limited = plain.model_copy(update={"scales": (2.0,), "longest_view": 120})
    draws = [vary(image, box, augment, torch.Generator().manual_seed(1)) for augment in (plain, limited)]
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1].boxes, draws[1][1].boxes)
