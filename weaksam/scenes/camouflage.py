"""Render objects that wear the texture of what lies behind them, with exact masks and scribbles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field, model_validator
from typing_extensions import Self

from weaksam.config import Settings, UserError
from weaksam.scenes.painting import (
    OUTLINES,
    Skin,
    cast_shadow,
    coverage,
    develop,
    paint,
    placed,
    random_light,
    random_outline,
    random_skin,
    skin_pixels,
)
from weaksam.structures.scribbles import ScribbleKind, ScribbleStyle, scribbled

FOLDERS = ("Imgs", "GT", "Scribble")
"""Folders of photos, true masks and scribbles in a split, as the published sets have them."""
_BODIES = tuple(outline for outline in OUTLINES if outline != "ring")
_FIRST_TEST = 500_000


class CamouflageSettings(Settings):
    """What scenes of concealed objects look like, and what is labelled on them."""

    size: int = Field(256, ge=48, le=1024, description="side of the square picture, pixels")
    max_objects: int = Field(2, ge=1, le=6, description="most objects of a scene")
    min_radius: float = Field(0.12, gt=0.04, le=0.5, description="smallest object radius, share of the side")
    max_radius: float = Field(0.30, gt=0.04, le=0.5, description="largest object radius, share of the side")
    difference: float = Field(
        0.5, ge=0, le=1, description="how far an object's texture is from that behind it; 0: the same one, turned"
    )
    max_patches: int = Field(6, ge=0, le=40, description="most patches of like textures that are no objects")
    labels: ScribbleKind = Field("scribble", description="what is labelled: scribble or points")
    num_points: int = Field(1, ge=1, description="with labels=points: points on the objects, and as many elsewhere")
    slips: float = Field(0.0, ge=0, le=1, description="chance of a stroke or point to leave its object")

    @model_validator(mode="after")
    def _radii_in_order(self) -> Self:
        if self.min_radius > self.max_radius:
            raise ValueError(f"min_radius must not exceed max_radius, found {self.min_radius} and {self.max_radius}")
        return self

    @property
    def style(self) -> ScribbleStyle:
        """How labels are drawn: strokes grow with the picture."""
        return ScribbleStyle(self.labels, self.num_points, max(2, self.size // 80), self.slips)


@dataclass(frozen=True)
class CamouflageScene:
    """A picture uint8 ``(H, W, 3)``, the ``mask`` bool ``(H, W)`` of its objects, at least one pixel, and ``scribble``.

    ``scribble``: levels uint8 ``(H, W)``: 0 nothing, 1 object, 2 background.
    """

    image: np.ndarray
    mask: np.ndarray
    scribble: np.ndarray


def render_camouflage(settings: CamouflageSettings, seed: int) -> CamouflageScene:
    """Draw scene number ``seed``; the same bytes each time. Labels draw from numbers of their own."""
    rng = np.random.default_rng([11, seed])
    size = (settings.size, settings.size)
    light = random_light(rng, (0.1, 0.4))
    behind = random_skin(rng, contrast=float(rng.uniform(0.5, 1.0)))
    canvas = skin_pixels(behind, *size).astype(np.float32)
    # Patches without relief or shadow: other places of the texture are no objects
    for _ in range(int(rng.integers(settings.max_patches + 1))):
        skin = _like(behind, 0.6 * settings.difference, rng)
        window, cover = _cover(settings, rng, (0.05, 0.25))
        canvas[window] += (skin_pixels(skin, *cover.shape) - canvas[window]) * (cover * rng.uniform(0.3, 1.0))[
            ..., None
        ]
    mask = np.zeros(size, bool)
    for _ in range(int(rng.integers(1, settings.max_objects + 1))):
        window, cover = _cover(settings, rng, (settings.min_radius, settings.max_radius), inside=True)
        depth = max(2, settings.size // 48)
        cast_shadow(canvas, window, cover, light, reach=depth, strength=0.25 * settings.difference)
        paint(canvas, window, cover, _like(behind, settings.difference, rng), light, depth=depth)
        mask[window] |= cover > 0.5
    image = develop(canvas, rng, max_noise=6.0)
    return CamouflageScene(image, mask, scribbled(mask, settings.style, np.random.default_rng([12, seed])))


def _like(skin: Skin, difference: float, rng: np.random.Generator) -> Skin:
    """The same kind of surface elsewhere and turned, its colours and its zoom changed by up to ``difference``."""
    shift = rng.normal(0, 22, 3) * difference
    contrast = 1 + difference * rng.uniform(-0.5, 0.5)
    middle = skin.colors.mean(axis=0)
    colors = np.clip(middle + (skin.colors - middle) * contrast + shift, 0, 255).astype(np.float32)
    zoom = skin.zoom * float(np.exp(difference * rng.uniform(-0.6, 0.6)))
    offset = (int(rng.integers(512)), int(rng.integers(512)))
    return replace(skin, colors=colors, zoom=zoom, angle=float(rng.uniform(0, 2 * np.pi)), offset=offset)


def _cover(
    settings: CamouflageSettings, rng: np.random.Generator, shares: tuple[float, float], *, inside: bool = False
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window and coverage of a random outline; ``inside``: its middle keeps away from the picture's border."""
    margin = 0.2 if inside else 0.0
    radius = settings.size * float(rng.uniform(*shares))
    axes = radius * np.array([1.0, rng.uniform(0.45, 1.0)])
    center = rng.uniform(margin, 1 - margin, 2) * settings.size
    outline = random_outline(rng, _BODIES[rng.integers(len(_BODIES))])
    return coverage(placed(outline, center, axes, rng.uniform(0, 2 * np.pi)), (settings.size, settings.size))


def write_camouflage(
    out: Path, settings: CamouflageSettings, num_train: int, num_validation: int, num_test: int, seed: int
) -> dict[str, Path]:
    """Write scenes as JPEG with masks and scribbles as PNG; the same bytes for the same arguments.

    Makes ``out/train``, ``out/validation`` and ``out/test``, each with ``Imgs``, ``GT`` and ``Scribble``; a split of no
    scenes is left out. Returns the splits' folders by name. Raises `UserError` for less than one training scene.
    """
    if num_train < 1 or min(num_validation, num_test) < 0:
        raise UserError(
            f"wanted 1 or more train and 0 or more validation and test scenes, found {num_train}, {num_validation} and "
            f"{num_test}: ask for more"
        )
    first, splits = seed * 1_000_000, {}
    for split, num, start in (
        ("train", num_train, first),
        ("validation", num_validation, first + 2 * _FIRST_TEST // 5),
        ("test", num_test, first + _FIRST_TEST),
    ):
        for number in range(num):
            scene = render_camouflage(settings, start + number)
            name = f"{split}_{number:05d}"
            for folder in FOLDERS:
                (out / split / folder).mkdir(parents=True, exist_ok=True)
            images, masks, scribbles = (out / split / folder / name for folder in FOLDERS)
            Image.fromarray(scene.image).save(images.with_suffix(".jpg"), quality=95, subsampling=0)
            Image.fromarray(scene.mask.astype(np.uint8) * 255).save(masks.with_suffix(".png"))
            Image.fromarray(scene.scribble).save(scribbles.with_suffix(".png"))
            splits[split] = out / split
    return splits
