"""Render labelled scenes of composite objects on cluttered backgrounds, with exact boxes and masks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator

from weaksam.config import Settings, UserError
from weaksam.scenes.kinds import BODY, KINDS, TELLING, TRIM, Kind
from weaksam.scenes.painting import (
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
from weaksam.scenes.placing import Placement, Room, free_place, hides_too_much, place_against, place_apart
from weaksam.structures.masks import rle_area, rle_from_mask

SOFT_KINDS = ("cloud", "grain", "fur", "plain", "cells")


class SceneSettings(Settings):
    """What synthetic scenes look like."""

    size: int = Field(256, ge=64, le=1024, description="side of the square picture, pixels")
    num_classes: int = Field(4, ge=1, le=len(KINDS), description="how many of the built-in classes are used")
    min_objects: int = Field(1, ge=1, le=12, description="fewest objects in a scene")
    max_objects: int = Field(4, ge=1, le=12, description="most objects in a scene")
    instances_per_class: tuple[int, int] | None = Field(
        None,
        description="fewest and most objects of each of a scene's one or two classes, such as [3,6]; then min_objects "
        "and max_objects mean nothing, and there are fewer where no room is left",
    )
    touching: float = Field(
        0.0,
        ge=0,
        le=1,
        description="with instances_per_class: share of the objects that lie against another of their class; the "
        "others keep a gap",
    )
    min_radius: float = Field(0.12, gt=0.04, le=0.5, description="smallest object radius, share of the side")
    max_radius: float = Field(0.30, gt=0.04, le=0.5, description="largest object radius, share of the side")
    max_distractors: int = Field(4, ge=0, le=20, description="most objects of no class")
    max_clutter: int = Field(40, ge=0, le=400, description="most pebbles and scraps strewn over the background")
    max_overlap: float = Field(0.35, ge=0, le=0.8, description="largest share of an object that others may hide")
    background_colour: float = Field(0.3, ge=0, le=1, description="colourfulness of all behind the objects; 1: garish")
    body_variety: float = Field(0.5, ge=0, le=1, description="0: a class has one body colour; 1: any body colour")

    @model_validator(mode="after")
    def _ordered(self) -> SceneSettings:
        for low, high in (("min_objects", "max_objects"), ("min_radius", "max_radius")):
            if getattr(self, low) > getattr(self, high):
                raise UserError(
                    f"{low} must not exceed {high}, found {getattr(self, low)} and {getattr(self, high)}: lower {low}."
                )
        fewest, most = self.instances_per_class or (1, 1)
        if not 1 <= fewest <= most <= 12:
            raise UserError(
                "instances_per_class wants the fewest and the most objects of a class, 1 to 12, found "
                f"[{fewest},{most}]: write for example instances_per_class=[3,6]."
            )
        if self.touching and self.instances_per_class is None:
            raise UserError(
                "touching wants instances_per_class, found none: add for example instances_per_class=[3,6]."
            )
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, label 0 first."""
        return tuple(kind.name for kind in KINDS[: self.num_classes])

    @property
    def room(self) -> Room:
        """What the objects are placed in."""
        return Room(self.size, (self.min_radius, self.max_radius), self.max_overlap / 2)


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it.

    ``image``: uint8 ``(H, W, 3)``; ``boxes``: float32 ``(N, 4)`` half-open xyxy around the visible part;
    ``labels``: int64 ``(N,)``; ``masks``: bool ``(N, H, W)``, the visible parts, disjoint. N is at least 1.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def render_scene(settings: SceneSettings, seed: int) -> Scene:
    """Draw scene number ``seed``; the same bytes each time."""
    rng = np.random.default_rng([3, seed])
    size = (settings.size, settings.size)
    canvas = np.zeros((*size, 3), np.float32)
    light = random_light(rng, (0.2, 0.7))
    paint_regions(canvas, rng, light, most=3)
    _scatter_clutter(canvas, int(rng.integers(settings.max_clutter + 1)), rng, light)
    num_distractors = int(rng.integers(settings.max_distractors + 1))
    in_front = int(rng.binomial(num_distractors, 0.3))
    for _ in range(num_distractors - in_front):
        _paint_distractor(canvas, [], 0.0, rng, light)
    _fade(canvas, settings.background_colour)
    masks: list[np.ndarray] = []
    paint_objects = _paint_few if settings.instances_per_class is None else _paint_crowds
    labels = paint_objects(canvas, masks, settings, rng, light)
    for _ in range(in_front):
        _paint_distractor(canvas, masks, settings.max_overlap / 2, rng, light)
    stack = np.stack(masks)
    return Scene(develop(canvas, rng), _boxes(stack), np.array(labels, np.int64), stack)


def _fade(canvas: np.ndarray, colour: float) -> None:
    """Keep only this share of the colourfulness of ``canvas (H, W, 3)``, in place: 0 leaves greys."""
    grey = canvas.mean(axis=2, keepdims=True)
    canvas[:] = grey + colour * (canvas - grey)


def _boxes(masks: np.ndarray) -> np.ndarray:
    """Half-open boxes ``(N, 4)`` float32 of masks ``(N, H, W)``, none of them empty."""
    columns, rows = masks.any(1), masks.any(2)
    starts = columns.argmax(1), rows.argmax(1)
    stops = columns.shape[1] - columns[:, ::-1].argmax(1), rows.shape[1] - rows[:, ::-1].argmax(1)
    return np.stack([*starts, *stops], axis=1).astype(np.float32)


def _paint_few(
    canvas: np.ndarray, masks: list[np.ndarray], settings: SceneSettings, rng: np.random.Generator, light: Light
) -> list[int]:
    """Paint ``min_objects`` to ``max_objects`` of one or two classes anywhere, update ``masks``; returns the labels."""
    labels: list[int] = []
    favourites = rng.integers(settings.num_classes, size=2)
    for _ in range(int(rng.integers(settings.min_objects, settings.max_objects + 1))):
        label = int(favourites[rng.integers(2)])
        body = _body_skin(KINDS[label], settings, rng)
        place = free_place(KINDS[label], masks, settings.room, rng)
        if place is not None:
            _paint_object(canvas, masks, KINDS[label], place, body, rng, light)
            labels.append(label)
    return labels


def _paint_crowds(
    canvas: np.ndarray, masks: list[np.ndarray], settings: SceneSettings, rng: np.random.Generator, light: Light
) -> list[int]:
    """Paint ``instances_per_class`` objects of each of one or two classes, update ``masks``; returns the labels."""
    assert settings.instances_per_class is not None
    fewest, most = settings.instances_per_class
    labels: list[int] = []
    for label in dict.fromkeys(rng.integers(settings.num_classes, size=2).tolist()):
        of_class: list[Placement] = []
        for _ in range(int(rng.integers(fewest, most + 1))):
            body = _body_skin(KINDS[label], settings, rng)
            if of_class and rng.random() < settings.touching:
                place = place_against(KINDS[label], of_class, masks, settings.room, rng)
            else:
                place = place_apart(KINDS[label], masks, settings.room, rng)
            if place is not None:
                _paint_object(canvas, masks, KINDS[label], place, body, rng, light)
                of_class.append(place)
                labels.append(label)
    return labels


def _paint_object(
    canvas: np.ndarray,
    masks: list[np.ndarray],
    kind: Kind,
    place: Placement,
    body: Skin,
    rng: np.random.Generator,
    light: Light,
) -> None:
    """Paint one object with its shadow over what is there, and update ``masks``."""
    everywhere = (slice(0, canvas.shape[0]), slice(0, canvas.shape[1]))
    reach, strength = int(place.radius * 0.3), float(rng.uniform(0.15, 0.5))
    cast_shadow(canvas, everywhere, place.solid, light, reach=reach, strength=strength)
    trim = random_skin(rng, SOFT_KINDS, contrast=0.4)
    telling = random_skin(rng, (kind.texture,), color=random_color(rng, kind.hue, (0.75, 1.0)), contrast=0.9)
    for piece, (window, cover) in zip(kind.pieces, place.covers, strict=True):
        skin = {BODY: body, TELLING: telling, TRIM: trim}[piece.role]
        paint(canvas, window, cover, skin, light, depth=max(2, int(place.radius * 0.15)))
    for number, mask in enumerate(masks):
        masks[number] = mask & ~place.solid
    masks.append(place.solid)


def _body_skin(kind: Kind, settings: SceneSettings, rng: np.random.Generator) -> Skin:
    """A body's surface: duller than the telling part, its hue spread around the class's second hue."""
    hue = (kind.hue + 0.45 + rng.normal(0, 0.3 * settings.body_variety)) % 1.0
    return random_skin(rng, SOFT_KINDS, color=random_color(rng, hue, (0.15, 0.65)), contrast=0.5)


def _scatter_clutter(canvas: np.ndarray, num: int, rng: np.random.Generator, light: Light) -> None:
    """Strew ``num`` small scraps of two or three sorts over the background."""
    size = (canvas.shape[0], canvas.shape[1])
    sorts = [(random_outline(rng), random_skin(rng, SOFT_KINDS, contrast=0.3)) for _ in range(3)]
    for _ in range(num):
        outline, skin = sorts[rng.integers(3)]
        axes = size[0] * rng.uniform(0.008, 0.03) * np.array([1.0, rng.uniform(0.3, 1.0)])
        rings = placed(outline, rng.uniform(0, size[0], 2), axes, rng.uniform(0, 2 * np.pi))
        paint(canvas, *coverage(rings, size), skin, light, depth=2)


def _paint_distractor(
    canvas: np.ndarray, masks: list[np.ndarray], limit: float, rng: np.random.Generator, light: Light
) -> None:
    """Paint an object of no class unless it would hide more than ``limit`` of a mask; updates ``masks``."""
    size = (canvas.shape[0], canvas.shape[1])
    radius = size[0] * rng.uniform(0.03, 0.14)
    axes = radius * np.array([1.0, rng.uniform(0.4, 1.0)])
    rings = placed(random_outline(rng), rng.uniform(0, size[0], 2), axes, rng.uniform(0, 2 * np.pi))
    window, cover = coverage(rings, size)
    solid = np.zeros(size, bool)
    solid[window] = cover > 0.5
    if hides_too_much(solid, masks, limit):
        return
    cast_shadow(canvas, window, cover, light, reach=int(radius * 0.4), strength=0.3)
    skin = random_skin(rng, color=random_color(rng, saturation=(0.0, 0.5)), contrast=rng.random())
    paint(canvas, window, cover, skin, light, depth=max(2, int(radius * 0.3)))
    for number, mask in enumerate(masks):
        masks[number] = mask & ~solid


def write_dataset(out: Path, settings: SceneSettings, num_train: int, num_test: int, seed: int) -> dict[str, Path]:
    """Write scenes as JPEG with COCO truth and tags; the same bytes for the same arguments.

    Makes ``out/train`` (images), ``out/instances_train.json`` (COCO, masks as RLE), ``out/tags_train.json``
    ({file name: [class names]}), and the same for test. Returns the six paths by name: ``train``, ``tags_train``...
    """
    if num_train < 1 or num_test < 0:
        raise UserError(
            f"A synthetic dataset wants 1 or more train and 0 or more test scenes, found {num_train} and {num_test}: "
            "ask for more."
        )
    out = Path(out)
    paths: dict[str, Path] = {}
    first = seed * 1_000_000
    for split, num, start in (("train", num_train, first), ("test", num_test, first + 500_000)):
        folder = out / split
        folder.mkdir(parents=True, exist_ok=True)
        scenes = []
        for number in range(num):
            scene = render_scene(settings, start + number)
            name = f"{split}_{number:05d}.jpg"
            Image.fromarray(scene.image).save(folder / name, quality=95, subsampling=0)
            scenes.append((name, scene))
        paths[split] = folder
        truth, tags = _coco(settings, scenes), _tags(settings, scenes)
        for kind, content in (("instances", truth), ("tags", tags)):
            paths[f"{kind}_{split}"] = out / f"{kind}_{split}.json"
            paths[f"{kind}_{split}"].write_text(json.dumps(content, indent=None) + "\n")
    return paths


def _tags(settings: SceneSettings, scenes: list[tuple[str, Scene]]) -> dict[str, list[str]]:
    """``{file name: class names}``."""
    return {name: [settings.classes[label] for label in np.unique(scene.labels)] for name, scene in scenes}


def _coco(settings: SceneSettings, scenes: list[tuple[str, Scene]]) -> dict[str, Any]:
    """COCO instances of ``scenes``; image, annotation and category ids count from 1."""
    images, annotations = [], []
    for number, (name, scene) in enumerate(scenes, start=1):
        height, width = scene.image.shape[:2]
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
            rle = rle_from_mask(torch.from_numpy(mask))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
                    "area": float(rle_area([rle])[0]),
                    "segmentation": rle,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(settings.classes)]
    return {"images": images, "annotations": annotations, "categories": categories}
