"""Panoramas to perspective views and cubes and back: by hand, against loops, and against py360convert's pictures."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.helpers import ROOT
from weaksam.structures.sphere import (
    FACES,
    cube_directions,
    cube_to_equirect,
    equirect_directions,
    equirect_to_cube,
    equirect_to_perspective,
    perspective_directions,
    perspective_to_equirect,
    sample_equirect,
)

PAIRS = ROOT.parent / "shared" / "data" / "pano" / "geometry"
pictured = pytest.mark.skipif(not PAIRS.is_dir(), reason="the pictures of py360convert are not on this machine")
MEAN_ERROR = {"e2p": 0.5, "e2c": 0.5, "c2e": 1.3, "demo c2e": 1.0, "demo e2c": 1.3}
"""Most grey levels of 255 that a view may differ by in the mean; they interpolate at edges in another way."""


def picture(name: str) -> Tensor:
    return torch.from_numpy(np.array(Image.open(PAIRS / name).convert("RGB"))).permute(2, 0, 1).float()


def faces_of_dice(dice: Tensor) -> Tensor:
    side = dice.shape[2] // 4
    places = ((1, 1), (1, 2), (1, 3), (1, 0), (0, 1), (2, 1))
    return torch.stack([dice[:, r * side : (r + 1) * side, c * side : (c + 1) * side] for r, c in places])


def smooth_panorama(size: tuple[int, int]) -> Tensor:
    """A panorama of smooth functions of the direction, which every view of it must show."""
    return smooth(equirect_directions(size)).permute(2, 0, 1)


def smooth(directions: Tensor) -> Tensor:
    x, y, z = directions.unbind(-1)
    return torch.stack([x + 0.5 * y, torch.sin(2 * z) + y * x, y * z], dim=-1)


@pictured
def test_views_are_those_of_py360convert() -> None:
    photo = picture("example_input.png")
    cube, demo = faces_of_dice(picture("example_e2c.png")), picture("demo_equirec.png")
    errors = {
        "e2p": equirect_to_perspective(photo, (300, 300), 60, 120, 23) - picture("example_e2p.png"),
        "e2c": equirect_to_cube(photo, 200) - cube,
        "c2e": cube_to_equirect(cube, (400, 800)) - picture("example_c2e.png"),
        "demo c2e": cube_to_equirect(faces_of_dice(picture("demo_cube.png")), (512, 1024)) - demo,
        "demo e2c": equirect_to_cube(demo, 256) - faces_of_dice(picture("demo_cube.png")),
    }
    means = {name: float(error.abs().mean()) for name, error in errors.items()}
    assert {name: mean for name, mean in means.items() if mean > MEAN_ERROR[name]} == {}


def test_directions_by_hand() -> None:
    across = equirect_directions((2, 4))
    half = math.sqrt(0.5)
    assert torch.allclose(across[0, 2], torch.tensor([0.5, half, 0.5]))  # 45 degrees up and to the right
    assert torch.allclose(across[1, 0], torch.tensor([-0.5, -half, -0.5]))
    ahead = perspective_directions((1, 1), 90)
    assert torch.allclose(ahead[0, 0], torch.tensor([0.0, 0.0, 1.0]))
    assert torch.allclose(perspective_directions((1, 1), 90, yaw=90)[0, 0], torch.tensor([1.0, 0, 0]), atol=1e-6)
    assert torch.allclose(perspective_directions((1, 1), 90, pitch=90)[0, 0], torch.tensor([0, 1.0, 0]), atol=1e-6)
    right_edge = perspective_directions((2, 2), 90)[0, 1]  # half a pixel of two from the middle
    assert torch.allclose(right_edge, torch.tensor([0.5, 0.5, 1.0]) / math.sqrt(1.5))
    assert cube_directions(3).norm(dim=-1).allclose(torch.ones(6, 3, 3)) and len(FACES) == 6


@pytest.mark.parametrize("vertical", [180.0, 90.0])
def test_a_panorama_at_its_own_directions_is_itself(vertical: float) -> None:
    panorama = torch.rand(2, 8, 16)
    own = equirect_directions((8, 16), vertical)
    for sampling in ("bilinear", "nearest"):
        assert torch.allclose(sample_equirect(panorama, own, vertical, sampling), panorama, atol=1e-4)


def test_views_show_what_lies_in_their_directions() -> None:
    panorama = smooth_panorama((64, 128))
    for yaw, pitch in ((0, 0), (180, 0), (120, 40), (-50, 88), (10, -90)):
        wanted = smooth(perspective_directions((20, 30), 80, yaw, pitch)).permute(2, 0, 1)
        assert (equirect_to_perspective(panorama, (20, 30), 80, yaw, pitch) - wanted).abs().max() < 5e-3
    cube = equirect_to_cube(panorama, 32)
    assert (cube - smooth(cube_directions(32)).permute(0, 3, 1, 2)).abs().max() < 5e-3
    assert (cube_to_equirect(cube, (64, 128)) - panorama).abs().max() < 2e-2


def test_a_photo_laid_on_a_panorama_covers_its_view_alone() -> None:
    photo = smooth(perspective_directions((60, 60), 90, 170, 20)).permute(2, 0, 1)  # over the edge
    laid, seen = perspective_to_equirect(photo, (64, 128), 90, 170, 20)
    panorama = smooth_panorama((64, 128))
    assert (laid - panorama)[:, seen].abs().max() < 1e-2 and laid[:, ~seen].abs().max() == 0
    inside = perspective_directions((60, 60), 90, 170, 20) @ torch.tensor([0.0, 0.0, 1.0])
    assert 0.12 < seen.float().mean() < 0.2 and inside.max() < 0


def test_the_seam_and_the_poles_are_crossed() -> None:
    panorama = torch.zeros(1, 4, 8)
    panorama[0, :, 7] = 1.0
    behind = torch.tensor([0.0, 0.0, -1.0])  # between the last column and the first
    assert sample_equirect(panorama, behind).item() == pytest.approx(0.5, abs=1e-3)
    panorama = torch.zeros(1, 4, 8)
    panorama[0, 0, :4] = 1.0  # half of the topmost row, the left one
    assert sample_equirect(panorama, torch.tensor([0.0, 1.0, 1e-6])).item() == pytest.approx(0.5, abs=1e-2)


def test_beyond_a_band_there_is_nothing() -> None:
    panorama = torch.ones(1, 4, 16)
    up, ahead = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    assert sample_equirect(panorama, torch.stack([up, ahead]), 90.0).tolist() == [[0.0, 1.0]]


def test_labels_are_taken_whole() -> None:
    panorama = torch.randint(0, 9, (1, 16, 32)).float()
    labels = equirect_to_perspective(panorama, (9, 9), 100, 200, 30, sampling="nearest")
    assert set(labels.unique().tolist()) <= set(range(9))
