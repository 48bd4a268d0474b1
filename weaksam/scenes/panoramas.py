"""Render panoramas and pinhole photos of streets with the exact class of every pixel, and write them as a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from weaksam.config import Settings
from weaksam.scenes.street import STREET_CLASSES, Street, cast, random_street
from weaksam.store.files import atomic_file, write_text_atomic
from weaksam.store.progress import progress
from weaksam.structures.sphere import equirect_directions, perspective_directions


class StreetSettings(Settings):
    """What rendered panoramas and photos look like."""

    height: int = Field(128, ge=16, le=2048, description="rows of a panorama; its width follows")
    vertical_degrees: float = Field(90.0, gt=10, le=180, description="what the height of a panorama covers")
    photo_size: int = Field(128, ge=16, le=2048, description="rows and columns of a pinhole photo")
    photo_degrees: float = Field(80.0, gt=10, lt=170, description="what the width of a pinhole photo covers")
    photo_yaw: float = Field(25.0, ge=0, le=180, description="a pinhole photo looks up to so far from along the street")
    rays: int = Field(2, ge=1, le=4, description="rays of a pixel along each axis")

    @property
    def panorama_size(self) -> tuple[int, int]:
        """(H, W) of a panorama."""
        return self.height, round(self.height * 360 / self.vertical_degrees)


@dataclass(frozen=True)
class SemanticPhoto:
    """A photo, uint8 ``(H, W, 3)``, and the class of each pixel, uint8 ``(H, W)``: that of most of its rays."""

    image: np.ndarray
    labels: np.ndarray


def render_panorama(settings: StreetSettings, seed: int) -> SemanticPhoto:
    """Panorama number ``seed``; its middle looks along the street, up to 15 degrees off. The same bytes each time."""
    rng = np.random.default_rng([11, seed])
    street = random_street(rng)
    height, width = settings.panorama_size
    size = (height * settings.rays, width * settings.rays)
    directions = equirect_directions(size, settings.vertical_degrees).numpy().astype(np.float64)
    turn = np.radians(rng.uniform(-15, 15))
    turned = directions @ np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
    return _developed(street, turned, settings.rays, rng)


def render_photo(settings: StreetSettings, seed: int) -> SemanticPhoto:
    """Pinhole photo number ``seed``, of a street of its own; it looks along it, forward, as a car's camera does."""
    rng = np.random.default_rng([12, seed])
    street = random_street(rng)
    side = settings.photo_size * settings.rays
    yaw, pitch = rng.uniform(-settings.photo_yaw, settings.photo_yaw), rng.uniform(-8, 4)
    directions = perspective_directions((side, side), settings.photo_degrees, yaw, pitch)
    return _developed(street, directions.numpy().astype(np.float64), settings.rays, rng)


def _developed(street: Street, directions: np.ndarray, rays: int, rng: np.random.Generator) -> SemanticPhoto:
    """The photo that rays in ``directions (h, w, 3)`` take, ``rays`` x ``rays`` of them a pixel, with some noise."""
    height, width = directions.shape[0] // rays, directions.shape[1] // rays
    hits = cast(street, directions.reshape(-1, 3))
    shape = (height, rays, width, rays)
    counts = np.stack([(hits.labels == label).reshape(shape).sum(axis=(1, 3)) for label in range(len(STREET_CLASSES))])
    colors = hits.colors.reshape(*shape, 3).mean(axis=(1, 3))
    image = colors * rng.uniform(0.85, 1.1) + rng.normal(0, rng.uniform(1, 5), colors.shape)
    return SemanticPhoto(np.clip(image.round(), 0, 255).astype(np.uint8), counts.argmax(axis=0).astype(np.uint8))


def write_panoramas(
    out: Path, settings: StreetSettings, num_train: int, num_test: int, num_photos: int, seed: int
) -> dict[str, Path]:
    """Render panoramas to train and test on and pinhole photos, with their class maps, below ``out``.

    Returns their folders, and OUT/panorama.yaml, a config for ``weaksam panorama run``. No two show the same street.
    """
    paths: dict[str, Path] = {}
    first = seed * 1_000_000
    for kind, start, num in (("train", 0, num_train), ("test", num_train, num_test), ("photos", 0, num_photos)):
        render = render_photo if kind == "photos" else render_panorama
        for number in progress(range(num), num, f"rendering {kind}"):
            photo = render(settings, first + start + number)
            for folder, pixels in (("images", photo.image), ("labels", photo.labels)):
                with atomic_file(out / kind / folder / f"{number:05d}.png") as temporary:
                    Image.fromarray(pixels).save(temporary, format="PNG")
        paths[kind] = out / kind
    lines = ["data:"]
    for kind in paths:
        lines += [f"  {kind}:", f"    images: {out / kind / 'images'}", f"    labels: {out / kind / 'labels'}"]
    lines += [f"  vertical_degrees: {settings.vertical_degrees:g}", f"  classes: [{', '.join(STREET_CLASSES)}]"]
    side = settings.photo_size
    lines += ["windows:", f"  size: [{settings.height}, {side}]", f"  stride: [{settings.height}, {side // 2}]"]
    write_text_atomic(out / "panorama.yaml", "\n".join([*lines, f"out: {out / 'run'}"]) + "\n")
    return {**paths, "config": out / "panorama.yaml"}
