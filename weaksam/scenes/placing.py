"""Find places for the objects of rendered scenes: anywhere, with a gap around them, or against another object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from weaksam.scenes.kinds import Kind, object_outlines
from weaksam.scenes.painting import coverage

_FREE_TRIES, _CROWD_TRIES = 12, 40
_SLIDES = 24
"""Steps in which an object moves towards the one that it shall touch."""


@dataclass(frozen=True)
class Room:
    """What objects are placed in: a square picture of ``size`` pixels a side.

    ``shares``: least and greatest radius of an object as shares of the side. ``max_hidden``: the share of what is
    visible of another object that a new one may hide.
    """

    size: int
    shares: tuple[float, float]
    max_hidden: float

    @property
    def gap(self) -> int:
        """Pixels that objects keep between them where they shall not touch."""
        return max(2, self.size // 64)

    def random_center(self, radius: float, rng: np.random.Generator) -> np.ndarray:
        """A centre (2,), xy, at which an object of ``radius`` reaches over the picture's edge by a fifth at most."""
        return rng.uniform(0.8 * radius, self.size - 0.8 * radius, 2)

    def holds(self, center: np.ndarray, radius: float) -> bool:
        """Whether ``center`` is one that `random_center` may give."""
        return bool(np.all((center >= 0.8 * radius) & (center <= self.size - 0.8 * radius)))


@dataclass(frozen=True)
class Placement:
    """Where one object is: centre (2,) and radius in pixels, the coverage of each piece, and all it covers.

    ``covers``: window and coverage of every piece, see `coverage`. ``solid``: bool ``(size, size)``.
    """

    center: np.ndarray
    radius: float
    covers: tuple[tuple[tuple[slice, slice], np.ndarray], ...]
    solid: np.ndarray


def hides_too_much(solid: np.ndarray, masks: Sequence[np.ndarray], limit: float) -> bool:
    """Whether painting ``solid (H, W)`` would hide more than ``limit`` of what is visible of any of ``masks``."""
    return any(np.count_nonzero(mask & solid) > limit * np.count_nonzero(mask) for mask in masks)


def free_place(kind: Kind, masks: Sequence[np.ndarray], room: Room, rng: np.random.Generator) -> Placement | None:
    """A place anywhere at which little of ``masks`` is hidden; None where no room was seen in a few tries."""
    for _ in range(_FREE_TRIES):
        radius = room.size * rng.uniform(*room.shares)
        center = room.random_center(radius, rng)
        place = _placed_at(center, radius, object_outlines(kind, center, radius, rng), room)
        if not hides_too_much(place.solid, masks, room.max_hidden):
            return place
    return None


def place_apart(kind: Kind, masks: Sequence[np.ndarray], room: Room, rng: np.random.Generator) -> Placement | None:
    """A place with a gap between the object and all ``masks``; None where no room was seen, for smaller ones either."""
    for attempt in range(_CROWD_TRIES):
        radius = _crowd_radius(room, attempt, rng)
        center = room.random_center(radius, rng)
        place = _placed_at(center, radius, object_outlines(kind, center, radius, rng), room)
        if not _meets(place.solid, masks, room.gap):
            return place
    return None


def place_against(
    kind: Kind, neighbours: Sequence[Placement], masks: Sequence[np.ndarray], room: Room, rng: np.random.Generator
) -> Placement | None:
    """A place at which the object touches or overlaps a random one of ``neighbours`` (at least one) a little.

    The object slides towards the neighbour from outside until they meet, and keeps that place where little of
    ``masks`` is hidden. None where no room was seen.
    """
    for attempt in range(_CROWD_TRIES):
        neighbour = neighbours[int(rng.integers(len(neighbours)))]
        radius = _crowd_radius(room, attempt, rng)
        turn = rng.uniform(0, 2 * np.pi)
        way = np.array([np.cos(turn), np.sin(turn)]) * (radius + neighbour.radius) * 1.2
        outlines = object_outlines(kind, np.zeros(2), radius, rng)
        for share in np.linspace(1, 0.1, _SLIDES):
            center = neighbour.center + share * way
            place = _placed_at(center, radius, [[ring + center for ring in rings] for rings in outlines], room)
            if _meets(place.solid, [neighbour.solid], 1):
                if room.holds(center, radius) and not hides_too_much(place.solid, masks, room.max_hidden):
                    return place
                break
    return None


def _crowd_radius(room: Room, attempt: int, rng: np.random.Generator) -> float:
    """A random radius, nearer to the least one the more attempts there were (0 for the first)."""
    least, greatest = room.shares
    return room.size * (least + rng.uniform(0, greatest - least) * 0.93**attempt)


def _placed_at(center: np.ndarray, radius: float, outlines: Sequence[list[np.ndarray]], room: Room) -> Placement:
    """The placement of an object whose pieces have these outlines, in pixels."""
    covers = tuple(coverage(rings, (room.size, room.size)) for rings in outlines)
    solid = np.zeros((room.size, room.size), bool)
    for window, cover in covers:
        solid[window] |= cover > 0.5
    return Placement(center, radius, covers, solid)


def _meets(solid: np.ndarray, masks: Sequence[np.ndarray], gap: int) -> bool:
    """Whether any of ``masks`` lies within ``gap`` pixels of ``solid``."""
    near = binary_dilation(solid, iterations=gap)
    return any(bool(np.any(near & mask)) for mask in masks)
