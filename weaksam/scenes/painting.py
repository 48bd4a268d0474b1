"""Draw the textures, outlines, light and shadows of rendered scenes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from scipy.spatial import cKDTree

TILE = 512
OUTLINES = ("ellipse", "box", "polygon", "star", "blob", "crescent", "capsule", "ring")
FIELDS = ("cloud", "grain", "stripes", "checker", "spots", "cells", "fur", "plain")


@dataclass(frozen=True)
class Skin:
    """A surface: two or three RGB colours in 0..255 spread over one texture field."""

    kind: str
    colors: np.ndarray  # (2 or 3, 3)
    zoom: float
    angle: float
    tile: int
    offset: tuple[int, int]


@dataclass(frozen=True)
class Light:
    """Direction to the light in image axes, and how strongly it models a surface (0..1)."""

    direction: tuple[float, float]
    strength: float


def random_light(rng: np.random.Generator, strength: tuple[float, float]) -> Light:
    """Light from any side, its strength between the two of ``strength``."""
    turn = rng.uniform(0, 2 * np.pi)
    return Light((float(np.cos(turn)), float(np.sin(turn))), float(rng.uniform(*strength)))


def _noise_tile(rng: np.random.Generator, exponent: float, stretch: float = 1.0) -> np.ndarray:
    """Tileable 1/f noise ``(TILE, TILE)`` with ranks spread evenly over [0, 1]."""
    fy = np.fft.fftfreq(TILE)[:, None] * stretch
    fx = np.fft.rfftfreq(TILE)[None, :]
    radius = np.sqrt(fy**2 + fx**2)
    radius[0, 0] = 1.0
    spectrum = np.exp(2j * np.pi * rng.random(radius.shape)) / radius**exponent
    spectrum[0, 0] = 0
    return _equalise(np.fft.irfft2(spectrum, s=(TILE, TILE)))


def _equalise(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1]: a normal distribution's bulk mapped by its own 1st and 99th percentiles."""
    low, high = np.percentile(values, (1, 99))
    return np.clip((values - low) / (high - low), 0, 1)


def _tile(kind: str, number: int) -> np.ndarray:
    """One texture field ``(TILE, TILE)`` in [0, 1] of ``kind``."""
    rng = np.random.default_rng([FIELDS.index(kind), number])
    y, x = np.mgrid[:TILE, :TILE] * (2 * np.pi / TILE)
    if kind == "cloud":
        return _noise_tile(rng, (1.3, 1.6, 1.9, 2.2)[number])
    if kind == "grain":
        return _noise_tile(rng, (0.3, 0.6, 0.8, 1.0)[number])
    if kind == "fur":
        return _noise_tile(rng, 1.0, stretch=(0.08, 0.15, 0.3, 0.5)[number])
    warp = _noise_tile(rng, 1.8) * (0.5, 1.5, 3.0, 5.0)[number]
    if kind == "stripes":
        return _equalise(np.tanh(np.sin(x * (24, 32, 40, 16)[number] + warp) * (0.8, 3, 1.5, 6)[number]))
    if kind == "checker":
        count = (16, 24, 32, 12)[number]
        return _equalise(np.tanh(4 * np.sin(x * count + warp * 0.3) * np.sin(y * count + warp * 0.3)))
    if kind == "spots":
        noise = _noise_tile(rng, 1.2)
        smooth = np.fft.irfft2(np.fft.rfft2(noise) * _low_pass((24, 18, 14, 10)[number]), s=(TILE, TILE))
        return _equalise(np.tanh(6 * (_equalise(smooth) - 0.62)))
    if kind == "cells":
        points = rng.random((60 * (number + 1), 2)) * TILE
        grid = np.stack(np.mgrid[:TILE, :TILE], axis=-1).reshape(-1, 2)[:, :]
        near = cKDTree(points, boxsize=TILE).query(grid, k=2)[0]
        return _equalise(np.minimum(near[:, 1] - near[:, 0], 12).reshape(TILE, TILE) + 3 * _noise_tile(rng, 1.0))
    return np.full((TILE, TILE), 0.5) + 0.2 * (_noise_tile(rng, 1.2) - 0.5)


def _low_pass(cycles: float) -> np.ndarray:
    """Gaussian transfer function of ``cycles`` per tile for ``rfft2``."""
    fy = np.fft.fftfreq(TILE)[:, None] * TILE
    fx = np.fft.rfftfreq(TILE)[None, :] * TILE
    return np.exp(-(fy**2 + fx**2) / (2 * cycles**2))


@cache
def texture_tile(kind: str, number: int) -> np.ndarray:
    """Texture field ``(TILE, TILE)`` float32 in [0, 1]; made once, and rounded so that machines agree."""
    tile = (np.round(_tile(kind, number) * 255) / 255).astype(np.float32)
    tile.setflags(write=False)
    return tile


def random_color(
    rng: np.random.Generator, hue: float | None = None, saturation: tuple[float, float] = (0.05, 0.8)
) -> np.ndarray:
    """An RGB colour ``(3,)`` in 0..255; ``hue`` in [0, 1) or any."""
    hue = rng.random() if hue is None else hue
    chroma, value = rng.uniform(*saturation), rng.uniform(0.2, 0.95)
    ramp = np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return 255 * value * (1 - chroma + chroma * ramp)


def random_skin(
    rng: np.random.Generator, kinds: tuple[str, ...] = FIELDS, *, color: np.ndarray | None = None, contrast: float = 0.5
) -> Skin:
    """A surface of one of ``kinds`` around ``color`` (or any); ``contrast`` in [0, 1] spreads its colours."""
    base = random_color(rng) if color is None else color
    other = random_color(rng)
    toward = np.clip(base * rng.uniform(0.5, 1.5), 0, 255)
    spread = contrast * rng.uniform(0.5, 1.2)
    far = toward + (other - toward) * (rng.random() ** 2)
    colors = np.stack([base + (base - far) * spread * 0.4, base + (far - base) * spread])
    return Skin(
        kind=kinds[rng.integers(len(kinds))],
        colors=np.clip(colors, 0, 255).astype(np.float32),
        zoom=float(np.exp(rng.uniform(-0.7, 0.9))),
        angle=rng.uniform(0, 2 * np.pi),
        tile=int(rng.integers(4)),
        offset=(int(rng.integers(TILE)), int(rng.integers(TILE))),
    )


def skin_pixels(skin: Skin, height: int, width: int) -> np.ndarray:
    """The surface painted over ``(height, width, 3)``, float32 in 0..255."""
    tile = texture_tile(skin.kind, skin.tile)
    cos, sin = np.cos(skin.angle) * skin.zoom, np.sin(skin.angle) * skin.zoom
    row = np.arange(height, dtype=np.float32)[:, None]
    column = np.arange(width, dtype=np.float32)[None, :]
    y = (row * np.float32(cos) + column * np.float32(sin)).astype(np.int32) + skin.offset[0]
    x = (column * np.float32(cos) - row * np.float32(sin)).astype(np.int32) + skin.offset[1]
    mix = tile[y & (TILE - 1), x & (TILE - 1)]
    table = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    palette = skin.colors[0] + (skin.colors[1] - skin.colors[0]) * table
    return palette[(mix * 255).astype(np.uint8)]


def random_outline(rng: np.random.Generator, kind: str | None = None) -> list[np.ndarray]:
    """Closed rings ``(N, 2)`` of xy in about [-1, 1]; a second ring is a hole."""
    kind = OUTLINES[rng.integers(len(OUTLINES))] if kind is None else kind
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if kind == "ellipse":
        return [circle]
    if kind == "box":  # a superellipse: from rounded to nearly square
        return [np.sign(circle) * np.abs(circle) ** rng.uniform(0.15, 0.6)]
    if kind == "polygon":
        corners = np.sort(rng.random(rng.integers(3, 8))) * 2 * np.pi
        return [np.stack([np.cos(corners), np.sin(corners)], axis=1) * rng.uniform(0.6, 1.0, (len(corners), 1))]
    if kind == "star":
        count = int(rng.integers(4, 9))
        radii = np.where(np.arange(2 * count) % 2, rng.uniform(0.35, 0.7), 1.0)
        turn = np.arange(2 * count) * np.pi / count
        return [np.stack([np.cos(turn), np.sin(turn)], axis=1) * radii[:, None]]
    if kind == "blob":
        return [circle * _wobble(rng, angles)[:, None]]
    if kind == "crescent":
        inner = circle * 0.9 + np.array([rng.uniform(0.4, 0.7), 0.0])
        outside = np.hypot(*circle.T) < np.hypot(*(circle - inner.mean(0)).T) + 0.2
        dented = np.where(outside[:, None], circle, circle * [-0.5, 1.0] + [rng.uniform(0.0, 0.3), 0.0])
        return [dented]
    if kind == "capsule":
        thin = rng.uniform(0.12, 0.35)
        return [np.sign(circle) * np.abs(circle) ** 0.5 * [1.0, thin] + np.stack([0 * angles, _bend(rng, circle)], 1)]
    return [circle, circle[::-1] * rng.uniform(0.4, 0.75)]


def _wobble(rng: np.random.Generator, angles: np.ndarray) -> np.ndarray:
    """Radius over ``angles``, a few random harmonics around 0.8."""
    order = np.arange(2, 7)
    amplitude = rng.normal(0, 0.35, 5) / order
    return np.clip(0.8 + (amplitude * np.cos(np.outer(angles, order) + rng.uniform(0, 6.28, 5))).sum(1), 0.25, 1.2)


def _bend(rng: np.random.Generator, circle: np.ndarray) -> np.ndarray:
    """A gentle bow along x."""
    return rng.uniform(-0.5, 0.5) * (circle[:, 0] ** 2 - 0.5)


def placed(rings: list[np.ndarray], center: np.ndarray, axes: np.ndarray, angle: float) -> list[np.ndarray]:
    """``rings`` scaled by ``axes`` (2,), turned by ``angle`` and moved to ``center``, in pixels."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return [(ring * axes) @ turn.T + center for ring in rings]


def coverage(rings: list[np.ndarray], size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window that ``rings`` cover and their anti-aliased coverage in it, float32 in [0, 1].

    A window of zero area is returned for rings outside ``size`` (H, W).
    """
    points = rings[0]
    left, top = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 1, (size[1], size[0]))
    window = (slice(int(top), int(max(bottom, top))), slice(int(left), int(max(right, left))))
    height, width = window[0].stop - window[0].start, window[1].stop - window[1].start
    if height == 0 or width == 0:
        return window, np.zeros((height, width), np.float32)
    layer = Image.new("L", (2 * width, 2 * height), 0)
    draw = ImageDraw.Draw(layer)
    for number, ring in enumerate(rings):
        xy = ((ring - (left, top)) * 2).ravel().tolist()
        draw.polygon(xy, fill=0 if number else 255)
    return window, np.asarray(layer.reduce(2), np.float32) / 255


def relief(cover: np.ndarray, light: Light, depth: int) -> np.ndarray:
    """Brightness factor ``(h, w)`` of a surface ``cover (h, w)`` in [0, 1] that rounds off within ``depth`` pixels."""
    padded = np.pad((cover * 255).astype(np.uint8), depth, mode="edge")
    height = np.asarray(Image.fromarray(padded).filter(ImageFilter.BoxBlur(depth)), np.float32)
    slope_y, slope_x = (slope[depth:-depth, depth:-depth] for slope in np.gradient(height))
    shade = -(slope_x * light.direction[0] + slope_y * light.direction[1]) * (depth / 90.0)
    return np.clip(1 + light.strength * shade, 0.35, 1.6)


def paint(
    canvas: np.ndarray, window: tuple[slice, slice], cover: np.ndarray, skin: Skin, light: Light, *, depth: int = 8
) -> None:
    """Paint ``skin`` through ``cover`` onto ``canvas`` (H, W, 3) float32, shaded as a rounded body."""
    if cover.size == 0:
        return
    surface = skin_pixels(skin, *cover.shape) * relief(cover, light, depth)[..., None]
    target = canvas[window]
    target += (surface - target) * cover[..., None]


def cast_shadow(
    canvas: np.ndarray, window: tuple[slice, slice], cover: np.ndarray, light: Light, *, reach: int, strength: float
) -> None:
    """Darken ``canvas (H, W, 3)`` beside ``cover (h, w)`` in ``window``, away from the light."""
    if cover.size == 0:
        return
    height, width = canvas.shape[:2]
    layer = Image.new("L", (width // 2, height // 2), 0)
    small = Image.fromarray((cover * 255 * strength).astype(np.uint8))
    small = small.resize((max(1, small.width // 2), max(1, small.height // 2)))
    layer.paste(small, (window[1].start // 2, window[0].start // 2))
    shift = [int(-light.direction[axis] * reach / 2) for axis in (0, 1)]
    layer = ImageChops.offset(layer, *shift).filter(ImageFilter.BoxBlur(max(1, reach // 4)))
    shade = np.asarray(layer.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    canvas *= (1 - shade)[..., None]


def develop(
    canvas: np.ndarray, rng: np.random.Generator, *, max_blur: float = 1.0, max_noise: float = 10.0
) -> np.ndarray:
    """The camera: lighting gradient, lens blur, sensor noise, 8 bits; uint8 ``(H, W, 3)``."""
    height, width = canvas.shape[:2]
    slope = rng.uniform(-0.35, 0.35, 2)
    rows = np.linspace(-slope[0], slope[0], height, dtype=np.float32)[:, None]
    columns = np.linspace(-slope[1], slope[1], width, dtype=np.float32)[None, :]
    lit = canvas * (
        (rng.uniform(0.8, 1.15) + rows + columns)[..., None] * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    )
    image = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    blur = rng.uniform(0, max_blur)
    if blur > 0.15:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    grain = _grain(int(rng.integers(4)), height, width, rng)
    return np.clip(np.asarray(image, np.float32) + grain * rng.uniform(1, max_noise), 0, 255).astype(np.uint8)


@cache
def _white_noise(number: int) -> np.ndarray:
    """Unit normal noise ``(TILE, TILE, 3)`` float32, made once."""
    return np.random.default_rng([99, number]).standard_normal((TILE, TILE, 3)).astype(np.float32)


def _grain(number: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A window of unit noise ``(height, width, 3)``, tiled where the picture is larger."""
    rows = (np.arange(height) + rng.integers(TILE)) & (TILE - 1)
    columns = (np.arange(width) + rng.integers(TILE)) & (TILE - 1)
    return _white_noise(number)[rows[:, None], columns[None, :]]


def paint_regions(canvas: np.ndarray, rng: np.random.Generator, light: Light, *, most: int) -> np.ndarray:
    """Fill ``canvas`` with one to ``1 + most`` textured regions; their numbers ``(H, W)`` uint8 from 1."""
    size = canvas.shape[0]
    regions = np.ones(canvas.shape[:2], np.uint8)
    canvas[:] = skin_pixels(random_skin(rng, contrast=rng.random()), *canvas.shape[:2])
    for number in range(2, 2 + int(rng.integers(0, most + 1))):
        edge = placed(
            [_wavy_half_plane(rng)], rng.uniform(0.1, 0.9, 2) * size, np.array([size, size]), rng.uniform(0, 6.28)
        )
        window, cover = coverage(edge, (size, size))
        paint(canvas, window, cover, random_skin(rng, contrast=rng.random()), light, depth=int(rng.integers(1, 4)))
        regions[window][cover > 0.5] = number
    return regions


def _wavy_half_plane(rng: np.random.Generator) -> np.ndarray:
    """A ring with one wavy side through the origin, and the others far below it."""
    along = np.linspace(-1.5, 1.5, 40)
    order = np.arange(1, 6)
    waves = (rng.normal(0, 0.12, 5) / order * np.sin(np.outer(along, order * 2) + rng.uniform(0, 6.28, 5))).sum(1)
    return np.concatenate([np.stack([along, waves], 1), [[1.5, 3.0], [-1.5, 3.0]]])
