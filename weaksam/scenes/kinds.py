"""Define the classes of objects in rendered scenes, and the outlines of one object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weaksam.scenes.painting import placed, random_outline

BODY, TELLING, TRIM = "body", "telling", "trim"


@dataclass(frozen=True)
class Piece:
    """One piece of an object: outline kind, centre and half axes in units of the object's radius, turn, role."""

    outline: str
    x: float
    y: float
    width: float
    height: float
    turn: float = 0.0
    role: str = BODY


@dataclass(frozen=True)
class Kind:
    """A class of objects: pieces in painting order, hue and texture of its telling part."""

    name: str
    hue: float
    texture: str
    pieces: tuple[Piece, ...]


KINDS = (
    Kind(
        "fish",
        0.08,
        "stripes",
        (
            Piece("polygon3", -0.85, 0.0, 0.35, 0.4, 0.0, TRIM),
            Piece("polygon3", -0.05, -0.38, 0.3, 0.22, 1.6, TRIM),
            Piece("ellipse", 0.05, 0.0, 0.8, 0.42),
            Piece("ellipse", 0.55, -0.03, 0.23, 0.23, 0.0, TELLING),
        ),
    ),
    Kind(
        "kettle",
        0.60,
        "checker",
        (
            Piece("ring", 0.0, -0.4, 0.42, 0.4, 0.0, TRIM),
            Piece("capsule", -0.62, 0.05, 0.42, 0.42, 0.7, TRIM),
            Piece("box", 0.0, 0.25, 0.62, 0.55),
            Piece("box", 0.02, 0.2, 0.26, 0.2, 0.0, TELLING),
        ),
    ),
    Kind(
        "cactus",
        0.86,
        "spots",
        (
            Piece("capsule", -0.4, 0.05, 0.3, 0.5, 0.5, TRIM),
            Piece("capsule", 0.4, 0.25, 0.3, 0.5, -0.5, TRIM),
            Piece("box", 0.0, 0.15, 0.27, 0.82),
            Piece("star", 0.0, -0.68, 0.3, 0.3, 0.0, TELLING),
        ),
    ),
    Kind(
        "beetle",
        0.33,
        "cells",
        (
            Piece("capsule", 0.0, -0.15, 0.75, 0.3, 0.35, TRIM),
            Piece("capsule", 0.0, 0.15, 0.78, 0.3, 0.0, TRIM),
            Piece("capsule", 0.0, 0.4, 0.75, 0.3, -0.35, TRIM),
            Piece("ellipse", 0.0, 0.2, 0.5, 0.7),
            Piece("ellipse", 0.0, -0.58, 0.26, 0.22, 0.0, TELLING),
        ),
    ),
    Kind(
        "rocket",
        0.0,
        "stripes",
        (
            Piece("polygon3", -0.3, 0.7, 0.35, 0.3, -0.8, TRIM),
            Piece("polygon3", 0.3, 0.7, 0.35, 0.3, 0.8, TRIM),
            Piece("ellipse", 0.0, 0.0, 0.36, 0.92),
            Piece("ring", 0.0, -0.25, 0.22, 0.22, 0.0, TELLING),
        ),
    ),
    Kind(
        "clock",
        0.48,
        "cells",
        (
            Piece("ellipse", -0.45, 0.75, 0.18, 0.2, 0.0, TRIM),
            Piece("ellipse", 0.45, 0.75, 0.18, 0.2, 0.0, TRIM),
            Piece("box", 0.0, 0.0, 0.7, 0.72),
            Piece("star", 0.0, -0.1, 0.3, 0.3, 0.0, TELLING),
        ),
    ),
)


def object_outlines(kind: Kind, center: np.ndarray, radius: float, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """The rings of every piece in pixels: leaning up to 25 degrees, stretched a little, mirrored or not."""
    lean, mirror = rng.uniform(-0.45, 0.45), rng.choice([-1.0, 1.0])
    stretch = np.array([mirror * rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15)]) * radius
    rings = []
    for piece in kind.pieces:
        if piece.outline == "polygon3":
            outline = [np.array([[-1.0, -1.0], [1.0, 0.0], [-1.0, 1.0]])]
        else:
            outline = random_outline(rng, piece.outline)
        own = placed(outline, np.array([piece.x, piece.y]), np.array([piece.width, piece.height]), piece.turn)
        rings.append(placed(own, center, stretch, lean))
    return rings
