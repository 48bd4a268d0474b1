"""What is drawn on a photo, pixel by pixel."""

import numpy as np
import torch
from PIL import ImageColor

from weaksam.report.pictures import COLOURS, Canvas, colour_of
from weaksam.structures.masks import rle_from_mask


def drawn(canvas: Canvas) -> np.ndarray:
    return np.asarray(canvas.photo)


def test_canvas_draws_in_pixels_of_the_original():
    red = np.array(ImageColor.getrgb(colour_of(0)))
    canvas = Canvas(np.zeros((100, 200, 3), np.uint8), max_side=400)  # twice as large
    pixels = drawn(canvas.boxes(torch.tensor([[50.0, 20, 150, 80]]), [0]))
    assert pixels.shape == (200, 400, 3)
    assert (pixels[40, 200] == red).all() and (pixels[100, 300] == red).all() and (pixels[100, 200] == 0).all()
    pixels = drawn(canvas.points(torch.tensor([[100.0, 50.0]]), [1]))
    assert (pixels[100, 200] == ImageColor.getrgb(COLOURS[1])).all()


def test_canvas_tints_masks():
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[:, :10] = True
    white = np.full((10, 20, 3), 255, np.uint8)
    pixels = drawn(Canvas(white, max_side=20).masks([rle_from_mask(mask)], [0], opacity=1.0))
    assert (pixels[5, 2] == ImageColor.getrgb(colour_of(0))).all() and (pixels[5, 15] == 255).all()


def test_heat_is_grey_where_low_and_coloured_where_high():
    canvas = Canvas(np.full((20, 40, 3), 200, np.uint8), max_side=40)
    pixels = np.asarray(canvas.heat(torch.tensor([[-9.0, 0.0, 0.0, 5.0]]), 0).photo).astype(int)
    assert np.ptp(pixels[10, 1]) == 0 and pixels[10, 1, 0] == 110  # 0.55 of 200
    assert pixels[10, 38, 0] > pixels[10, 38, 1] + 60  # the first class is red
    flat = Canvas(np.zeros((4, 4, 3), np.uint8), max_side=4).heat(torch.zeros(2, 2), 0)
    assert not np.asarray(flat.photo).any()


def test_dashed_lines_show_two_colours():
    pixels = drawn(
        Canvas(np.zeros((100, 100, 3), np.uint8), 100).boxes(torch.tensor([[10.0, 10, 90, 90]]), dashed=True)
    )
    assert {tuple(pixel) for pixel in pixels[10, 15:85].tolist()} == {(255, 255, 255), (32, 32, 32)}
    nothing = drawn(Canvas(np.zeros((100, 100, 3), np.uint8), 100).boxes(torch.zeros(0, 4)))
    assert not nothing.any()


def test_colours_start_again_after_the_last():
    assert colour_of(len(COLOURS)) == colour_of(0) != colour_of(1)
