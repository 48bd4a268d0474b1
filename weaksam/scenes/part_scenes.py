"""Render scenes of nested shapes (sub-part, part, whole) that the bundled small segmenter is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weaksam.scenes.painting import (
    FIELDS,
    Light,
    Skin,
    cast_shadow,
    coverage,
    develop,
    paint,
    paint_regions,
    placed,
    random_color,
    random_light,
    random_outline,
    random_skin,
)


@dataclass(frozen=True)
class PartScene:
    """An image ``(H, W, 3)`` uint8 and its three visible levels ``(3, H, W)`` uint8.

    Level 0 numbers wholes (background regions too, so it is never 0), level 1 parts, level 2 sub-parts;
    0 means that the pixel has none. A number belongs to one region, and a region lies inside one of the level before.
    """

    image: np.ndarray
    levels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image.shape[0], self.image.shape[1]


def render_part_scene(seed: int, size: int = 256) -> PartScene:
    """Draw one square scene of ``size`` pixels; the same bytes for the same seed."""
    rng = np.random.default_rng([7, seed])
    canvas = np.zeros((size, size, 3), np.float32)
    levels = np.zeros((3, size, size), np.uint8)
    light = random_light(rng, (0.1, 0.9))
    levels[0] = paint_regions(canvas, rng, light, most=3)
    if rng.random() < 0.3:
        _scatter_clutter(canvas, rng, light)
    for _ in range(int(rng.choice([3, 4, 5, 6, 8, 10, 13]))):
        _paint_object(canvas, levels, rng, light)
    return PartScene(develop(canvas, rng, max_blur=1.5, max_noise=14.0), levels)


def _scatter_clutter(canvas: np.ndarray, rng: np.random.Generator, light: Light) -> None:
    """Strew scraps of one sort over the background; they belong to the region they lie on."""
    size = canvas.shape[0]
    outline, skin = random_outline(rng), random_skin(rng, contrast=rng.random())
    reach = size * rng.uniform(0.008, 0.025)
    for _ in range(int(rng.integers(5, 40))):
        axes = reach * rng.uniform(0.6, 1.4) * np.array([1.0, rng.uniform(0.3, 1.0)])
        rings = placed(outline, rng.uniform(0, size, 2), axes, rng.uniform(0, 2 * np.pi))
        paint(canvas, *coverage(rings, (size, size)), skin, light, depth=2)


def _paint_object(canvas: np.ndarray, levels: np.ndarray, rng: np.random.Generator, light: Light) -> None:
    """Add one whole: a body alone, a body with parts inside, or a body with parts that stick out."""
    size = canvas.shape[0]
    radius = size * float(np.exp(rng.uniform(np.log(0.045), np.log(0.42))))
    center = rng.uniform(-0.02, 1.02, 2) * size
    axes = radius * np.array([1.0, np.exp(rng.uniform(-1.0, 0.0))])
    angle = rng.uniform(0, 2 * np.pi)
    body = placed(random_outline(rng), center, axes, angle)
    color = random_color(rng)
    if rng.random() < 0.25:  # an object that hardly stands out from what lies behind it
        y, x = np.clip(center[::-1].astype(int), 0, size - 1)
        color = np.clip(canvas[y, x] * rng.uniform(0.7, 1.4) + rng.normal(0, 15, 3), 0, 255)
    skin = random_skin(rng, color=color, contrast=rng.random())
    style = rng.choice(["plain", "inside", "limbs"], p=[0.4, 0.3, 0.3]) if radius > size * 0.05 else "plain"
    pieces: list[tuple[list[np.ndarray], Skin, int]] = [(body, skin, 0)]
    if style == "inside":
        pieces += _inner_parts(rng, center, axes, angle, color)
    elif style == "limbs":
        limbs = _limbs(rng, center, axes, angle, color)
        pieces = limbs + pieces if rng.random() < 0.5 else pieces + limbs
    _paint_pieces(canvas, levels, pieces, rng, light, body_is_part=style == "limbs", radius=radius)


def _part_skin(rng: np.random.Generator, color: np.ndarray) -> Skin:
    """A part's surface: near the body's colour, or quite another one."""
    near = np.clip(color * rng.uniform(0.6, 1.4) + rng.normal(0, 20, 3), 0, 255)
    return random_skin(rng, FIELDS, color=near if rng.random() < 0.5 else None, contrast=rng.random())


def _inner_parts(
    rng: np.random.Generator, center: np.ndarray, axes: np.ndarray, angle: float, color: np.ndarray
) -> list[tuple[list[np.ndarray], Skin, int]]:
    """One to four parts on the body, some with a sub-part; depth 1 is a part, 2 a sub-part."""
    pieces = []
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for _ in range(int(rng.integers(1, 5))):
        part_center = center + turn @ (rng.uniform(-0.6, 0.6, 2) * axes)
        part_axes = axes.mean() * rng.uniform(0.15, 0.5) * np.array([1.0, rng.uniform(0.4, 1.0)])
        part_angle = rng.uniform(0, 2 * np.pi)
        pieces.append((placed(random_outline(rng), part_center, part_axes, part_angle), _part_skin(rng, color), 1))
        if rng.random() < 0.5 and part_axes.min() > 6:
            inner = placed(random_outline(rng), part_center, part_axes * rng.uniform(0.3, 0.6), part_angle)
            pieces.append((inner, _part_skin(rng, color), 2))
    return pieces


def _limbs(
    rng: np.random.Generator, center: np.ndarray, axes: np.ndarray, angle: float, color: np.ndarray
) -> list[tuple[list[np.ndarray], Skin, int]]:
    """One to five parts that reach out over the body's edge; alike or each its own."""
    pieces = []
    alike = rng.random() < 0.5
    skin, kind = _part_skin(rng, color), str(rng.choice(["ellipse", "capsule", "polygon", "blob", "box"]))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for _ in range(int(rng.integers(1, 6))):
        way = rng.uniform(0, 2 * np.pi)
        part_center = center + turn @ (np.array([np.cos(way), np.sin(way)]) * axes * rng.uniform(0.8, 1.1))
        part_axes = axes.mean() * rng.uniform(0.2, 0.6) * np.array([1.0, rng.uniform(0.3, 1.0)])
        rings = placed(random_outline(rng, kind if alike else None), part_center, part_axes, way + angle)
        pieces.append((rings, skin if alike else _part_skin(rng, color), 1))
        if rng.random() < 0.3 and part_axes.min() > 6:
            inner = placed(random_outline(rng), part_center, part_axes * rng.uniform(0.3, 0.6), way + angle)
            pieces.append((inner, _part_skin(rng, color), 2))
    return pieces


def _paint_pieces(
    canvas: np.ndarray,
    levels: np.ndarray,
    pieces: list[tuple[list[np.ndarray], Skin, int]],
    rng: np.random.Generator,
    light: Light,
    *,
    body_is_part: bool,
    radius: float,
) -> None:
    """Paint ``pieces`` in order and number what is visible of the whole, its parts and their sub-parts."""
    size = (canvas.shape[0], canvas.shape[1])
    covers = [coverage(rings, size) for rings, _, _ in pieces]
    body = next(number for number, piece in enumerate(pieces) if piece[2] == 0)
    depth = max(2, int(radius * rng.uniform(0.05, 0.4)))
    if rng.random() < 0.7:
        reach = max(2, int(radius * rng.uniform(0.1, 0.5)))
        cast_shadow(canvas, *covers[body], light, reach=reach, strength=float(rng.uniform(0.1, 0.6)))
    whole = _next_number(levels[0])
    for number, (_, skin, level) in enumerate(pieces):
        window, cover = covers[number]
        if level == 2:  # a sub-part ends where its part ends
            cover = cover * _full(covers[number - 1], size)[window]
        elif level == 1 and not body_is_part:  # an inner part ends where the body ends
            cover = cover * _full(covers[body], size)[window]
        covers[number] = (window, cover)
        paint(canvas, window, cover, skin, light, depth=max(2, depth // (1 + level)))
        _number_piece(levels, window, cover > 0.5, whole, level, body_is_part)


def _number_piece(
    levels: np.ndarray, window: tuple[slice, slice], solid: np.ndarray, whole: int, level: int, body_is_part: bool
) -> None:
    """Write one painted piece into the three level maps."""
    levels[0][window][solid] = whole
    if level == 2:
        levels[2][window][solid] = _next_number(levels[2])
        return
    levels[2][window][solid] = 0
    levels[1][window][solid] = _next_number(levels[1]) if level == 1 or body_is_part else 0


def _next_number(level: np.ndarray) -> int:
    """The first number not in use yet on a level map."""
    return int(level.max()) + 1


def _full(piece: tuple[tuple[slice, slice], np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """A window's coverage on the whole picture ``size``."""
    out = np.zeros(size, np.float32)
    out[piece[0]] = piece[1]
    return out
