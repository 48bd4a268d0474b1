"""Draw a street of boxes, cylinders and ellipsoids from a seed, and cast rays into it from any direction."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

STREET_CLASSES = ("road", "sidewalk", "building", "pole", "vegetation", "sky", "person", "car")
"""Names of the classes, label 0 first."""
ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, SKY, PERSON, CAR = range(len(STREET_CLASSES))
_LENGTH = 70.0
"""Metres of street before and behind the camera."""


@dataclass(frozen=True)
class Solid:
    """A box, an upright cylinder or an ellipsoid: centre and half axes xyz in metres, class, colour in 0 to 255."""

    shape: str
    center: np.ndarray
    half: np.ndarray
    label: int
    color: np.ndarray


@dataclass(frozen=True)
class Street:
    """A street along z: half widths in metres of road and of road with sidewalks, solids, colours and light.

    ``eye``: where the camera stands, y up. ``sun``: unit vector towards the light.
    """

    road: float
    walk: float
    eye: np.ndarray
    sun: np.ndarray
    grounds: np.ndarray
    sky: np.ndarray
    fog: float
    solids: list[Solid] = field(default_factory=list)


@dataclass(frozen=True)
class Hits:
    """What P rays meet first: metres ``(P,)``, labels int64 ``(P,)``, colours ``(P, 3)`` in 0 to 255."""

    distances: np.ndarray
    labels: np.ndarray
    colors: np.ndarray


def random_street(rng: np.random.Generator) -> Street:
    """A street with houses, trees, poles, cars and people on both sides; the same for the same numbers."""
    road = rng.uniform(3.5, 6.5)
    walk = road + rng.uniform(1.5, 3.5)
    tint = rng.uniform(0.8, 1.15, 3)
    grounds = np.stack([np.full(3, rng.uniform(60, 105)), np.full(3, rng.uniform(120, 175)), [70.0, 115.0, 50.0]])
    turn, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.2)
    street = Street(
        road,
        walk,
        np.array([rng.uniform(-0.5, 0.5) * road, rng.uniform(1.5, 2.3), 0.0]),
        _unit(np.array([np.cos(turn), height, np.sin(turn)])),
        grounds * tint,
        np.stack([rng.uniform([90, 130, 180], [150, 190, 235]), rng.uniform(190, 240, 3)]),
        rng.uniform(0.003, 0.012),
    )
    for side in (-1.0, 1.0):
        _add_houses(street, side, rng)
        _add_row(street, side, rng)
    return street


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


def _add_houses(street: Street, side: float, rng: np.random.Generator) -> None:
    """Houses from one end of a side to the other, with gardens between some of them."""
    z = -_LENGTH
    while z < _LENGTH:
        width = rng.uniform(6, 16)
        if rng.random() < 0.8:
            depth, height, back = rng.uniform(6, 12), rng.uniform(4, 18), rng.uniform(0, 3.5)
            center = np.array([side * (street.walk + back + depth / 2), height / 2, z + width / 2])
            color = rng.uniform(90, 220) * rng.uniform(0.75, 1.1, 3)
            half = np.array([depth, height, width]) / 2
            street.solids.append(Solid("box", center, half, BUILDING, color))
        elif rng.random() < 0.8:
            _add_tree(street, np.array([side * (street.walk + rng.uniform(1, 5)), 0.0, z + width / 2]), rng)
        z += width + rng.choice([0.0, rng.uniform(1, 5)])


def _add_row(street: Street, side: float, rng: np.random.Generator) -> None:
    """What stands along the kerb of a side: poles, trees, people, and cars beside it."""
    for z in np.arange(-45.0, 45.0, 4.5):
        at, kind = z + rng.uniform(-1, 1), rng.random()
        kerb = side * (street.road + rng.uniform(0.3, 0.6))
        if kind < 0.25:
            half = np.array([rng.uniform(0.08, 0.18), rng.uniform(1.8, 4.0), 0.0])
            color = np.full(3, rng.uniform(60, 150))
            street.solids.append(Solid("cylinder", np.array([kerb, half[1], at]), half, POLE, color))
        elif kind < 0.4:
            _add_tree(street, np.array([kerb, 0.0, at]), rng)
        elif kind < 0.7:
            _add_person(street, np.array([side * rng.uniform(street.road * 0.9, street.walk), 0.0, at]), rng)
        if rng.random() < 0.35 and abs(at) > 3.5:
            _add_car(street, np.array([side * (street.road - rng.uniform(1.1, 1.6)), 0.0, at]), rng)


def _add_tree(street: Street, foot: np.ndarray, rng: np.random.Generator) -> None:
    trunk, crown = rng.uniform(1.2, 2.6), rng.uniform(0.9, 2.4)
    half = np.array([rng.uniform(0.1, 0.22), trunk / 2, 0.0])
    street.solids.append(
        Solid("cylinder", foot + np.array([0, trunk / 2, 0]), half, VEGETATION, np.array([90.0, 65.0, 45.0]))
    )
    color = rng.uniform([30, 75, 20], [90, 135, 60])
    half = crown * rng.uniform(0.8, 1.25, 3)
    street.solids.append(Solid("ellipsoid", foot + np.array([0, trunk + 0.7 * half[1], 0]), half, VEGETATION, color))


def _add_person(street: Street, foot: np.ndarray, rng: np.random.Generator) -> None:
    height = rng.uniform(1.5, 1.95)
    half = np.array([0.26, 0.43 * height, 0.22])
    clothes, skin = rng.uniform(20, 220, 3), rng.uniform([120, 80, 60], [230, 190, 165])
    street.solids.append(Solid("ellipsoid", foot + np.array([0, half[1], 0]), half, PERSON, clothes))
    street.solids.append(Solid("ellipsoid", foot + np.array([0, 0.92 * height, 0]), np.full(3, 0.14), PERSON, skin))


def _add_car(street: Street, foot: np.ndarray, rng: np.random.Generator) -> None:
    color = rng.uniform(20, 235, 3)
    half = np.array([0.85, 0.4, rng.uniform(1.9, 2.4)])
    street.solids.append(Solid("box", foot + np.array([0, 0.35 + half[1], 0]), half, CAR, color))
    cabin = half * [0.9, 0.75, 0.55]
    top = foot + np.array([0, 0.35 + 2 * half[1] + cabin[1], rng.uniform(-0.3, 0.3)])
    street.solids.append(Solid("box", top, cabin, CAR, 0.45 * color))
    for z in (-0.62, 0.62):
        wheel = np.array([0.9, 0.32, 0.32])
        street.solids.append(Solid("ellipsoid", foot + np.array([0, 0.32, z * half[2]]), wheel, CAR, np.full(3, 25.0)))


def cast(street: Street, directions: np.ndarray) -> Hits:
    """What rays in unit ``directions (P, 3)`` from the street's eye meet first; the sky where they meet nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = _ground(street, directions)
        nearest = np.full(len(directions), -1)
        for number, solid in enumerate(street.solids):
            near = _towards(solid, street.eye, directions)
            distances = _MEETINGS[solid.shape](solid, street.eye, directions[near])
            closer = distances < hits.distances[near]
            rays = near[closer]
            hits.distances[rays], nearest[rays] = distances[closer], number
    for number in np.unique(nearest[nearest >= 0]).tolist():
        here = nearest == number
        solid = street.solids[number]
        points = street.eye + directions[here] * hits.distances[here, None]
        hits.labels[here], hits.colors[here] = solid.label, _shaded(street, solid, points)
    return _in_air(street, hits, directions)


def _towards(solid: Solid, eye: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Numbers of the rays that pass through the ball around a solid, and of some that do not; of all from inside it."""
    away, radius = solid.center - eye, np.linalg.norm(solid.half) * 1.001
    distance = np.linalg.norm(away)
    if distance <= radius:
        return np.arange(len(directions))
    return np.flatnonzero(directions @ (away / distance) >= np.sqrt(1 - (radius / distance) ** 2) - 1e-6)


def _ground(street: Street, directions: np.ndarray) -> Hits:
    """Rays on the ground: road with dashes, sidewalk with slabs, grass; the others have no distance and no colour."""
    down = directions[:, 1] < -1e-4
    distances = np.where(down, -street.eye[1] / directions[:, 1], np.inf)
    points = street.eye + directions * np.where(down, distances, 0)[:, None]
    across, along = np.abs(points[:, 0]), points[:, 2]
    labels = np.where(across < street.road, ROAD, np.where(across < street.walk, SIDEWALK, VEGETATION))
    kind = np.where(across < street.road, 0, np.where(across < street.walk, 1, 2))
    colors = (
        street.grounds[kind] * (1 + 0.12 * (_noise(points, 6.0) - 0.5) + 0.2 * (_noise(points, 0.8) - 0.5))[:, None]
    )
    colors[(kind == 0) & (across < 0.1) & (np.mod(along, 4) < 2)] = 225.0
    slabs = (kind == 1) & (np.minimum(np.mod(along, 1.2), np.mod(points[:, 0], 1.2)) < 0.08)
    colors[slabs] *= 0.75
    return Hits(distances, np.where(down, labels, SKY), colors)


def _noise(points: np.ndarray, per_metre: float) -> np.ndarray:
    """Noise in [0, 1] of each point ``(P, 3)``, one number a cell of 1 / ``per_metre`` metres."""
    cells = np.floor(np.clip(points, -1e4, 1e4) * per_metre).astype(np.int64)
    mixed = cells[:, 0] * 73856093 ^ cells[:, 1] * 19349663 ^ cells[:, 2] * 83492791
    return ((mixed ^ (mixed >> 13)) * 1274126177 >> 7 & 0xFFFF) / 0xFFFF


def _meet_box(solid: Solid, eye: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Distance to a box ``(P,)``, infinite where a ray misses it."""
    low = (solid.center - solid.half - eye) / directions
    high = (solid.center + solid.half - eye) / directions
    enter, leave = np.minimum(low, high).max(axis=1), np.maximum(low, high).min(axis=1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def _meet_ellipsoid(solid: Solid, eye: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Distance to an ellipsoid ``(P,)``, infinite where a ray misses it."""
    return _nearest_root(directions / solid.half, (eye - solid.center) / solid.half)


def _meet_cylinder(solid: Solid, eye: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Distance to the side of an upright cylinder ``(P,)``, infinite where a ray misses it."""
    flat = (eye - solid.center)[[0, 2]] / solid.half[0]
    distances = _nearest_root(directions[:, [0, 2]] / solid.half[0], flat)
    heights = eye[1] + np.where(np.isfinite(distances), distances, 0) * directions[:, 1]
    return np.where(np.abs(heights - solid.center[1]) <= solid.half[1], distances, np.inf)


def _nearest_root(directions: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """The smaller t > 0 with |origin + t direction| = 1, infinite without one."""
    a, b = (directions**2).sum(axis=1), directions @ origin
    inside = b**2 - a * (origin @ origin - 1)
    t = (-b - np.sqrt(np.maximum(inside, 0))) / a
    return np.where((inside > 0) & (t > 0), t, np.inf)


_MEETINGS = {"box": _meet_box, "ellipsoid": _meet_ellipsoid, "cylinder": _meet_cylinder}


def _shaded(street: Street, solid: Solid, points: np.ndarray) -> np.ndarray:
    """Colours ``(n, 3)`` of points of a solid: windows of houses, leaves, and the light from the sun."""
    local = (points - solid.center) / np.where(solid.half > 0, solid.half, 1)
    colors = np.repeat(solid.color[None], len(points), axis=0)
    if solid.shape == "box":
        axis = np.abs(local).argmax(axis=1)
        normals = np.zeros_like(local)
        normals[np.arange(len(axis)), axis] = np.sign(local[np.arange(len(axis)), axis])
    else:
        normals = local * ([1, 1, 1] if solid.shape == "ellipsoid" else [1, 0, 1])
        normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    if solid.label == BUILDING:
        along = np.where(np.abs(normals[:, 0]) > 0.5, points[:, 2], points[:, 0])
        window = (np.mod(along, 2.6) < 1.3) & (np.mod(points[:, 1] - 0.9, 2.9) < 1.5) & (points[:, 1] > 0.9)
        colors[window & (np.abs(normals[:, 1]) < 0.5)] = [55.0, 65.0, 80.0]
    rough = {VEGETATION: 0.7, BUILDING: 0.15}.get(solid.label, 0.08)
    light = 0.55 + 0.45 * np.maximum(normals @ street.sun, 0)
    return colors * (light * (1 + rough * (_noise(points, 5.0) - 0.5)))[:, None]


def _in_air(street: Street, hits: Hits, directions: np.ndarray) -> Hits:
    """The same rays with the sky where they meet nothing, and the air's colour over what is far."""
    up = np.clip(directions[:, 1], 0, 1)[:, None]
    sky = street.sky[1] + (street.sky[0] - street.sky[1]) * np.sqrt(up)
    clouds = _noise(directions * [1, 2, 1], 9.0)[:, None] * 14
    meets = np.isfinite(hits.distances)
    clear = np.exp(-street.fog * np.where(meets, hits.distances, 0))[:, None]
    colors = np.where(meets[:, None], hits.colors * clear + street.sky[1] * (1 - clear), sky + clouds)
    return Hits(hits.distances, np.where(meets, hits.labels, SKY), np.clip(colors, 0, 255))
