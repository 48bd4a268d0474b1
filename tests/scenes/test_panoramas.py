"""Rendered streets: the same for a seed, their geometry by hand, views that agree, and the files of a data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from weaksam.scenes import street as street_scenes
from weaksam.scenes.panoramas import StreetSettings, render_panorama, render_photo, write_panoramas
from weaksam.scenes.street import BUILDING, CAR, POLE, ROAD, SIDEWALK, SKY, VEGETATION, Solid, Street, cast
from weaksam.structures.sphere import equirect_directions, equirect_to_perspective, perspective_directions

SMALL = StreetSettings(height=32, photo_size=32, rays=1)


def street(*solids: Solid) -> Street:
    grey = np.full((3, 3), 100.0)
    return Street(3.0, 5.0, np.array([0.0, 2.0, 0.0]), np.array([0.0, 1.0, 0.0]), grey, grey[:2], 0.0, list(solids))


def solid(shape: str, center: tuple[float, ...], half: tuple[float, ...], label: int) -> Solid:
    return Solid(shape, np.array(center), np.array(half), label, np.full(3, 50.0))


def test_rays_meet_what_they_should() -> None:
    box = solid("box", (0, 2, 10), (1, 1, 2), BUILDING)
    pole = solid("cylinder", (8, 2, 0), (1, 2, 0), POLE)
    ball = solid("ellipsoid", (0, 2, -9), (1, 1, 3), CAR)
    rays = np.array([[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0], [0, -1, 0], [0.6, 0.8, 0]], dtype=float)
    hits = cast(street(box, pole, ball), rays)
    assert hits.labels.tolist() == [BUILDING, POLE, CAR, SKY, ROAD, SKY]
    assert hits.distances[:5].tolist() == pytest.approx([8.0, 7.0, 6.0, np.inf, 2.0])
    slanting = np.array([[4.0, -2, 0], [9.0, -2, 0], [2.9, -2, 0]])
    ground = cast(street(), slanting / np.linalg.norm(slanting, axis=1, keepdims=True))
    assert ground.labels.tolist() == [SIDEWALK, VEGETATION, ROAD]


def test_rays_that_pass_by_a_solid_are_not_cast_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [render_panorama(SMALL, seed) for seed in range(3)] + [render_photo(SMALL, seed) for seed in range(3)]
    monkeypatch.setattr(street_scenes, "_towards", lambda solid, eye, directions: np.arange(len(directions)))
    every = [render_panorama(SMALL, seed) for seed in range(3)] + [render_photo(SMALL, seed) for seed in range(3)]
    for one_way, other in zip(few, every, strict=True):
        assert (one_way.image == other.image).all() and (one_way.labels == other.labels).all()


def test_the_nearest_hides_the_others() -> None:
    near, far = solid("box", (0, 2, 5), (1, 1, 1), CAR), solid("box", (0, 2, 10), (4, 2, 1), BUILDING)
    for solids in ((near, far), (far, near)):
        assert cast(street(*solids), np.array([[0.0, 0, 1]])).labels.tolist() == [CAR]
    behind = solid("box", (0, 2, -5), (1, 1, 1), CAR)
    assert cast(street(behind), np.array([[0.0, 0, 1]])).labels.tolist() == [SKY]


def test_a_seed_gives_the_same_bytes() -> None:
    for render in (render_panorama, render_photo):
        first, again, other = render(SMALL, 3), render(SMALL, 3), render(SMALL, 4)
        assert np.array_equal(first.image, again.image) and np.array_equal(first.labels, again.labels)
        assert not np.array_equal(first.image, other.image)
    panorama = render_panorama(SMALL, 0)
    assert panorama.image.shape == (32, 128, 3) and panorama.labels.max() < 8
    assert (panorama.labels[-1] == ROAD).mean() > 0.5 and (panorama.labels[0] != ROAD).all()
    assert render_panorama(StreetSettings(height=32, rays=2), 0).image.shape == (32, 128, 3)


def test_a_view_of_a_panorama_is_the_pinhole_photo() -> None:
    scene = street(solid("box", (2, 2, 8), (2, 2, 2), BUILDING), solid("cylinder", (-3, 2, 6), (0.5, 3, 0), POLE))
    panorama = cast(scene, equirect_directions((256, 512)).numpy().reshape(-1, 3).astype(float)).labels
    seen = cast(scene, perspective_directions((60, 60), 90).numpy().reshape(-1, 3).astype(float)).labels
    view = equirect_to_perspective(
        torch.from_numpy(panorama).reshape(1, 256, 512).float(), (60, 60), 90, sampling="nearest"
    )
    assert (view[0].numpy() == seen.reshape(60, 60)).mean() > 0.98


def test_a_data_set_is_written_with_its_config(tmp_path: Path) -> None:
    paths = write_panoramas(tmp_path, SMALL, 2, 1, 2, seed=1)
    assert sorted(path.name for path in (tmp_path / "train" / "images").iterdir()) == ["00000.png", "00001.png"]
    image, labels = (np.array(Image.open(tmp_path / "train" / kind / "00001.png")) for kind in ("images", "labels"))
    wanted = render_panorama(SMALL, 1_000_001)
    assert np.array_equal(image, wanted.image) and np.array_equal(labels, wanted.labels)
    assert not np.array_equal(image, np.array(Image.open(tmp_path / "test" / "images" / "00000.png")))
    config = yaml.safe_load(paths["config"].read_text())
    assert config["data"]["vertical_degrees"] == 90 and config["windows"]["stride"] == [32, 16]
