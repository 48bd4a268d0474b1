"""Windows of panoramas: there and back, around both edges, and what two of them share, against plain loops."""

import pytest
import torch

from weaksam.config import UserError
from weaksam.structures.panorama_windows import PanoramaWindows, crops_at, overlaps, stitch

WINDOWS = [
    PanoramaWindows((6, 8), (6, 4)),
    PanoramaWindows((4, 8), (2, 4)),
    PanoramaWindows((4, 8), (2, 4), wrap_y=True),
    PanoramaWindows((4, 7), (3, 5), wrap_y=True),  # strides that do not divide the panorama
    PanoramaWindows((5, 7), (5, 7), wrap_x=False),
    PanoramaWindows((99, 99), (1, 1)),
]


@pytest.mark.parametrize("windows", WINDOWS)
def test_stitched_crops_are_the_panorama(windows: PanoramaWindows) -> None:
    panorama = torch.rand(3, 6, 16, dtype=torch.float64)
    crops = windows.crops(panorama)
    assert crops.shape[2:] == windows.fitted((6, 16))
    assert torch.allclose(windows.stitch(crops, (6, 16)), panorama, atol=1e-15)


@pytest.mark.parametrize("windows", WINDOWS)
def test_crops_are_those_of_a_loop(windows: PanoramaWindows) -> None:
    panorama = torch.arange(96.0).reshape(1, 6, 16)
    height, width = windows.fitted((6, 16))
    for crop, (top, left) in zip(windows.crops(panorama), windows.offsets((6, 16)), strict=True):
        for row in range(height):
            for column in range(width):
                assert crop[0, row, column] == panorama[0, (top + row) % 6, (left + column) % 16]


def test_the_published_windows_are_eight() -> None:
    offsets = PanoramaWindows((400, 512), (400, 256)).offsets((400, 2048))
    assert offsets == [(0, left) for left in range(0, 2048, 256)]
    covered = stitch(torch.ones(8, 1, 400, 512), offsets, (400, 2048))
    assert covered.eq(1).all()


def test_turning_the_panorama_permutes_the_windows() -> None:
    windows = PanoramaWindows((6, 8), (6, 4))
    panorama = torch.rand(2, 6, 16)
    assert torch.equal(windows.crops(panorama.roll(4, 2)), windows.crops(panorama).roll(1, 0))
    both = PanoramaWindows((4, 8), (2, 8), wrap_y=True)  # tops 0, 2, 4; lefts 0, 8
    assert torch.equal(both.crops(panorama.roll(2, 1)), both.crops(panorama).roll(2, 0))


def test_without_wrapping_the_last_window_ends_at_the_edge() -> None:
    windows = PanoramaWindows((4, 6), (3, 5), wrap_x=False)
    assert windows.offsets((6, 16)) == [(top, left) for top in (0, 2) for left in (0, 5, 10)]


def test_no_windows_give_nothing() -> None:
    assert crops_at(torch.rand(2, 4, 4), [], (2, 3)).shape == (0, 2, 2, 3)
    assert stitch(torch.zeros(0, 2, 2, 3), [], (4, 4)).eq(0).all()


@pytest.mark.parametrize("windows", [*WINDOWS, PanoramaWindows((4, 12), (2, 4), wrap_y=True)])
def test_overlaps_show_the_same_pixels_and_all_of_them(windows: PanoramaWindows) -> None:
    panorama = torch.arange(96.0).reshape(1, 6, 16)
    crops, offsets, size = windows.crops(panorama), windows.offsets((6, 16)), windows.fitted((6, 16))
    shared: dict[tuple[int, int], set[float]] = {}
    for first, second, here, there in overlaps(offsets, size, (6, 16)):
        assert torch.equal(crops[first, 0][here], crops[second, 0][there])
        seen = crops[first, 0][here].flatten().tolist()
        assert seen and not shared.setdefault((first, second), set()) & set(seen)
        shared[first, second] |= set(seen)
    for first in range(len(offsets)):
        for second in range(first + 1, len(offsets)):
            wanted = set(crops[first].flatten().tolist()) & set(crops[second].flatten().tolist())
            assert shared.get((first, second), set()) == wanted


def test_a_stride_that_leaves_pixels_out_is_refused() -> None:
    with pytest.raises(UserError, match="lower the stride"):
        PanoramaWindows((4, 8), (4, 9)).offsets((4, 16))
