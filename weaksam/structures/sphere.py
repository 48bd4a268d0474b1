"""Turn equirectangular panoramas into perspective views and cubes and back, in vectorised torch.

Directions are unit vectors xyz: x to the right, y up, z into the middle of the panorama. Yaw turns to the right, pitch
up, in degrees. Pixels have their values at their centres, as in py360convert, with whose pictures this is compared.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

FULL_DEGREES = 180.0
"""What the height of a whole panorama covers, whose width covers 360 degrees."""
FACES = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (-90.0, 0.0), (0.0, 90.0), (0.0, -90.0))
"""Yaw and pitch of a cube's faces, each seen from inside: front, right, back, left, up, down."""
Sampling = Literal["bilinear", "nearest"]
"""How a value between pixels is taken; labels want ``nearest``."""


# Directions


def equirect_directions(
    size: tuple[int, int], vertical_degrees: float = FULL_DEGREES, *, device: torch.device | None = None
) -> Tensor:
    """Unit directions ``(H, W, 3)`` of the pixels of a panorama that is ``vertical_degrees`` high, half of them up."""
    height, width = size
    yaw = ((torch.arange(width, device=device, dtype=torch.float64) + 0.5) / width - 0.5) * 2 * math.pi
    pitch = (0.5 - (torch.arange(height, device=device, dtype=torch.float64) + 0.5) / height) * math.radians(
        vertical_degrees
    )
    flat = pitch.cos()[:, None]
    parts = (flat * yaw.sin(), pitch.sin()[:, None].expand(height, width), flat * yaw.cos())
    return torch.stack(parts, dim=-1).float()


def perspective_directions(
    size: tuple[int, int],
    degrees: float,
    yaw: float = 0.0,
    pitch: float = 0.0,
    *,
    device: torch.device | None = None,
) -> Tensor:
    """Unit directions ``(h, w, 3)`` of the pixels of a pinhole photo whose width covers ``degrees``, in (0, 180)."""
    height, width = size
    focal = width / 2 / math.tan(math.radians(degrees) / 2)
    x = (torch.arange(width, device=device, dtype=torch.float64) + 0.5 - width / 2) / focal
    y = -(torch.arange(height, device=device, dtype=torch.float64) + 0.5 - height / 2) / focal
    rays = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x * y[:, None])], -1)
    turned = rays @ _rotation(yaw, pitch, rays.device).T
    return (turned / turned.norm(dim=-1, keepdim=True)).float()


def cube_directions(side: int, *, device: torch.device | None = None) -> Tensor:
    """Unit directions ``(6, side, side, 3)`` of the pixels of a cube's `FACES`."""
    return torch.stack([perspective_directions((side, side), 90.0, yaw, pitch, device=device) for yaw, pitch in FACES])


def _rotation(yaw: float, pitch: float, device: torch.device) -> Tensor:
    """The float64 matrix ``(3, 3)`` that turns a direction first up by ``pitch``, then to the right by ``yaw``."""
    a, b = math.radians(yaw), math.radians(pitch)
    up = [[1, 0, 0], [0, math.cos(b), math.sin(b)], [0, -math.sin(b), math.cos(b)]]
    right = [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]]
    return torch.tensor(right, dtype=torch.float64, device=device) @ torch.tensor(
        up, dtype=torch.float64, device=device
    )


# Sampling


def sample_equirect(
    panorama: Tensor, directions: Tensor, vertical_degrees: float = FULL_DEGREES, sampling: Sampling = "bilinear"
) -> Tensor:
    """Values ``(C, ...)`` of a panorama ``(C, H, W)`` at unit ``directions (..., 3)``, float32.

    The left and the right edge meet; over a pole a whole panorama goes on half a turn further. Of a panorama of fewer
    ``vertical_degrees`` what lies beyond its first and last row is 0.
    """
    height, width = panorama.shape[1:]
    x, y, z = directions.unbind(-1)
    yaw, pitch = torch.atan2(x, z), torch.asin(y.clamp(-1, 1))
    column = (yaw / (2 * math.pi) + 0.5) * width - 0.5
    row = (0.5 - pitch / math.radians(vertical_degrees)) * height - 0.5
    padded = _with_edges(panorama.float(), whole=vertical_degrees >= FULL_DEGREES)
    values = _sampled(padded, column + 1, row + 1, sampling)
    return values * ((row >= -0.5) & (row <= height - 0.5))


def _with_edges(panorama: Tensor, whole: bool) -> Tensor:
    """A panorama ``(C, H, W)`` with what lies one pixel beyond each edge, ``(C, H + 2, W + 2)``."""
    half = panorama.shape[2] // 2
    above, below = panorama[:, :1], panorama[:, -1:]
    if whole:
        above, below = above.roll(half, 2), below.roll(half, 2)
    tall = torch.cat([above, panorama, below], dim=1)
    return torch.cat([tall[:, :, -1:], tall, tall[:, :, :1]], dim=2)


def _sampled(values: Tensor, column: Tensor, row: Tensor, sampling: Sampling) -> Tensor:
    """Values ``(C, ...)`` of ``values (C, H, W)`` at pixel coordinates ``(...)``; beyond them those of the edge."""
    height, width = values.shape[1:]
    if sampling == "nearest":
        return values[:, row.round().long().clamp(0, height - 1), column.round().long().clamp(0, width - 1)]
    grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1).reshape(1, 1, -1, 2)
    taken = F.grid_sample(values[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return taken.reshape(len(values), *column.shape)


def sample_cube(faces: Tensor, directions: Tensor, sampling: Sampling = "bilinear") -> Tensor:
    """Values ``(C, ...)`` of a cube ``(6, C, s, s)`` at unit ``directions (..., 3)``; across its edges interpolated."""
    side = faces.shape[-1]
    degrees = 2 * math.degrees(math.atan((side + 2) / side))
    around = torch.stack(
        [perspective_directions((side + 2, side + 2), degrees, *face, device=faces.device) for face in FACES]
    )
    padded = _cube_values(faces.float(), around, 0, "nearest").transpose(0, 1).contiguous()  # (6, C, s + 2, s + 2)
    padded[:, :, 1:-1, 1:-1] = faces
    return _cube_values(padded, directions, 1, sampling)


def _cube_values(faces: Tensor, directions: Tensor, margin: int, sampling: Sampling) -> Tensor:
    """Values ``(C, ...)`` of faces ``(6, C, S, S)`` that reach ``margin`` pixels beyond their edges."""
    side = faces.shape[-1] - 2 * margin
    turns = torch.stack([_rotation(*face, faces.device) for face in FACES]).to(directions.dtype)  # (6, 3, 3)
    local = torch.einsum("...c,fcd->f...d", directions, turns)  # in each face's own frame
    face = local[..., 2].argmax(dim=0)  # the face ahead
    values = faces.new_zeros(faces.shape[1], *face.shape)
    for number in range(len(FACES)):
        here = face == number
        x, y, z = local[number][here].unbind(-1)
        column, row = ((along / z + 1) * side / 2 - 0.5 + margin for along in (x, -y))
        values[:, here] = _sampled(faces[number], column, row, sampling)
    return values


# Conversions


def equirect_to_perspective(
    panorama: Tensor,
    size: tuple[int, int],
    degrees: float,
    yaw: float = 0.0,
    pitch: float = 0.0,
    *,
    vertical_degrees: float = FULL_DEGREES,
    sampling: Sampling = "bilinear",
) -> Tensor:
    """The pinhole photo ``(C, h, w)`` of ``size`` that a panorama ``(C, H, W)`` shows, see `perspective_directions`."""
    directions = perspective_directions(size, degrees, yaw, pitch, device=panorama.device)
    return sample_equirect(panorama, directions, vertical_degrees, sampling)


def perspective_to_equirect(
    photo: Tensor,
    size: tuple[int, int],
    degrees: float,
    yaw: float = 0.0,
    pitch: float = 0.0,
    *,
    vertical_degrees: float = FULL_DEGREES,
    sampling: Sampling = "bilinear",
) -> tuple[Tensor, Tensor]:
    """A pinhole photo ``(C, h, w)`` on a panorama ``(C, H, W)`` of ``size``, 0 elsewhere; and where it lies, bool."""
    height, width = photo.shape[1:]
    focal = width / 2 / math.tan(math.radians(degrees) / 2)
    directions = equirect_directions(size, vertical_degrees, device=photo.device)
    x, y, z = (directions @ _rotation(yaw, pitch, photo.device).float()).unbind(-1)
    ahead = z > 1e-6
    z = z.clamp(min=1e-6)
    column, row = x / z * focal + width / 2 - 0.5, -y / z * focal + height / 2 - 0.5
    inside = ahead & (column >= -0.5) & (column <= width - 0.5) & (row >= -0.5) & (row <= height - 0.5)
    column, row = column.clamp(-1, width), row.clamp(-1, height)  # far outside, float32 would overflow
    return _sampled(photo.float(), column, row, sampling) * inside, inside


def equirect_to_cube(panorama: Tensor, side: int, sampling: Sampling = "bilinear") -> Tensor:
    """The cube ``(6, C, side, side)`` of a whole panorama ``(C, H, W)``; faces as in `FACES`."""
    values = sample_equirect(panorama, cube_directions(side, device=panorama.device), sampling=sampling)
    return values.transpose(0, 1).contiguous()


def cube_to_equirect(faces: Tensor, size: tuple[int, int], sampling: Sampling = "bilinear") -> Tensor:
    """The whole panorama ``(C, H, W)`` of ``size`` of a cube ``(6, C, s, s)``."""
    return sample_cube(faces, equirect_directions(size, device=faces.device), sampling)
