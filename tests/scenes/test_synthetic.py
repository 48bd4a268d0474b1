"""Synthetic scenes: the same bytes each time, and a truth that agrees with itself."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation

from weaksam.config import UserError
from weaksam.scenes.kinds import KINDS
from weaksam.scenes.painting import Light, coverage, paint, random_outline, random_skin, texture_tile
from weaksam.scenes.part_prompts import nested_regions, sample_prompts
from weaksam.scenes.part_scenes import render_part_scene
from weaksam.scenes.placing import Room, place_against, place_apart
from weaksam.scenes.synthetic import SceneSettings, render_scene, write_dataset

SMALL = SceneSettings(size=96, num_classes=3)


def test_same_seed_same_bytes_and_other_seed_other_bytes():
    first, again, other = (render_scene(SMALL, seed) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.masks.tobytes() == again.masks.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("seed", range(12))
def test_boxes_enclose_their_visible_masks_exactly(seed):
    scene = render_scene(SMALL, seed)
    num = len(scene.labels)
    assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
    assert 1 <= num <= SMALL.max_objects and scene.boxes.shape == (num, 4) and scene.masks.shape == (num, 96, 96)
    assert scene.labels.max() < SMALL.num_classes
    assert scene.masks.sum(0).max() == 1, "visible parts must not overlap"
    for box, mask in zip(scene.boxes, scene.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_every_class_appears_and_several_instances_per_scene():
    scenes = [render_scene(SMALL, seed) for seed in range(40)]
    assert set(np.concatenate([scene.labels for scene in scenes])) == {0, 1, 2}
    assert max(len(scene.labels) for scene in scenes) == 4


def test_without_distractors_clutter_and_overlap_objects_stay_apart():
    settings = SceneSettings(size=96, max_distractors=0, max_clutter=0, max_overlap=0.0, min_objects=2)
    for seed in range(6):
        scene = render_scene(settings, seed)
        assert all(mask.any() for mask in scene.masks)


def test_few_objects_lie_where_they_always_lay():
    """Places and classes of scenes as they were before there were crowds: settings of crowds change no other scene."""
    known = {
        0: ([0, 0, 0, 0], [[28, 41, 75, 74], [6, 19, 45, 39], [24, 71, 59, 93], [2, 55, 51, 77]]),
        1: ([1, 1, 1, 1], [[34, 16, 76, 54], [38, 48, 70, 78], [69, 3, 93, 26], [0, 45, 30, 75]]),
        2: ([0, 0, 1, 0], [[74, 58, 96, 72], [30, 16, 67, 42], [48, 30, 84, 71], [21, 47, 48, 62]]),
    }
    for seed, (labels, boxes) in known.items():
        scene = render_scene(SMALL, seed)
        assert scene.labels.tolist() == labels and scene.boxes.tolist() == boxes


CROWD = {"size": 128, "min_radius": 0.08, "max_radius": 0.14, "instances_per_class": (3, 5), "max_distractors": 0}


@pytest.mark.parametrize("touching", [0.0, 1.0])
def test_crowds_have_so_many_of_each_class_apart_or_touching(touching):
    settings = SceneSettings(**CROWD, touching=touching)
    gap = settings.room.gap
    for seed in range(8):
        scene, again = render_scene(settings, seed), render_scene(settings, seed)
        assert scene.image.tobytes() == again.image.tobytes() and scene.masks.tobytes() == again.masks.tobytes()
        counts = np.bincount(scene.labels)
        assert set(counts[counts > 0]) <= {3, 4, 5} and 1 <= np.count_nonzero(counts) <= 2
        touched = [
            any(binary_dilation(mask, iterations=gap)[other].any() for other in np.delete(scene.masks, number, axis=0))
            for number, mask in enumerate(scene.masks)
        ]
        if touching:
            assert all(touched)  # the first of a class is touched by the second
        else:
            assert not any(touched)


def test_an_object_slides_until_it_meets_its_neighbour():
    room = Room(128, (0.1, 0.1), 0.1)
    rng = np.random.default_rng(0)
    neighbour = place_apart(KINDS[5], [], room, rng)
    place = place_against(KINDS[5], [neighbour], [neighbour.solid], room, rng)
    assert (binary_dilation(place.solid) & neighbour.solid).any()
    hidden = np.count_nonzero(place.solid & neighbour.solid) / np.count_nonzero(neighbour.solid)
    assert hidden <= 0.1 and room.holds(place.center, place.radius)
    full = [np.ones((128, 128), bool)]
    assert place_apart(KINDS[5], full, room, rng) is None  # no room for a gap
    # Where nothing at all may be hidden, nothing can lie against it
    around = binary_dilation(neighbour.solid, iterations=60) & ~neighbour.solid
    assert place_against(KINDS[5], [neighbour], [around], Room(128, (0.1, 0.1), 0.0), rng) is None


def test_crowd_settings_that_cannot_be_are_one_sentence():
    with pytest.raises(ValueError, match=r"1 to 12, found \[5,2\]"):
        SceneSettings(instances_per_class=(5, 2))
    with pytest.raises(ValueError, match="touching wants instances_per_class, found none"):
        SceneSettings(touching=0.5)


def test_written_dataset_is_coco_with_exact_masks_and_tags_that_follow(tmp_path):
    paths = write_dataset(tmp_path / "a", SMALL, 3, 2, seed=4)
    again = write_dataset(tmp_path / "b", SMALL, 3, 2, seed=4)
    names = ["instances_test", "instances_train", "tags_test", "tags_train", "test", "train"]
    assert sorted(paths) == names
    for name in names:
        files = [paths[name]] if paths[name].is_file() else sorted(paths[name].iterdir())
        twins = [again[name]] if again[name].is_file() else sorted(again[name].iterdir())
        assert [f.read_bytes() for f in files] == [f.read_bytes() for f in twins]
    truth = json.loads(paths["instances_train"].read_text())
    tags = json.loads(paths["tags_train"].read_text())
    assert [c["name"] for c in truth["categories"]] == ["fish", "kettle", "cactus"]
    assert [i["file_name"] for i in truth["images"]] == sorted(tags) and len(tags) == 3
    for image in truth["images"]:
        with Image.open(paths["train"] / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"])
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        assert {truth["categories"][a["category_id"] - 1]["name"] for a in own} == set(tags[image["file_name"]])
        for annotation in own:
            assert coco_mask.area(annotation["segmentation"]) == annotation["area"]
            assert coco_mask.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]


def test_train_and_test_scenes_differ(tmp_path):
    paths = write_dataset(tmp_path, SMALL, 1, 1, seed=0)
    train, test = (next(paths[name].iterdir()).read_bytes() for name in ("train", "test"))
    assert train != test


def test_wrong_requests_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="found 0 and 2: ask for more"):
        write_dataset(tmp_path, SMALL, 0, 2, seed=0)
    with pytest.raises(ValueError, match="min_objects must not exceed max_objects, found 5 and 4"):
        SceneSettings(min_objects=5)


def test_coverage_of_a_square_is_its_area_and_nothing_outside():
    square = np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 40.0], [10.0, 40.0]])
    window, cover = coverage([square], (64, 64))
    assert abs(cover.sum() - 400) < 45  # the outline itself is drawn too: half a pixel on each side
    assert window == (slice(19, 41), slice(9, 31))
    assert coverage([square + 100], (64, 64))[1].size == 0


def test_paint_touches_only_what_is_covered():
    canvas = np.full((32, 32, 3), 7.0, np.float32)
    cover = np.zeros((10, 10), np.float32)
    cover[2:5, 3:6] = 1
    skin = random_skin(np.random.default_rng(0), ("plain",), color=np.array([200.0, 200.0, 200.0]), contrast=0.0)
    paint(canvas, (slice(4, 14), slice(6, 16)), cover, skin, Light((1.0, 0.0), 0.5), depth=2)
    assert np.argwhere((canvas != 7).any(-1)).min(0).tolist() == [6, 9]
    assert np.count_nonzero((canvas != 7).any(-1)) == 9


def test_textures_are_kept_and_cover_the_range():
    tile = texture_tile("stripes", 1)
    assert tile is texture_tile("stripes", 1)
    assert tile.min() == 0 and tile.max() == 1 and not tile.flags.writeable


def test_ring_has_a_hole():
    assert len(random_outline(np.random.default_rng(0), "ring")) == 2


def test_part_scene_levels_are_nested_and_repeatable():
    for seed in range(6):
        scene, again = render_part_scene(seed, 128), render_part_scene(seed, 128)
        assert scene.image.tobytes() == again.image.tobytes() and scene.levels.tobytes() == again.levels.tobytes()
        assert scene.size == (128, 128) and scene.levels.shape == (3, 128, 128)
        assert scene.levels[0].min() >= 1
        for inner, outer in ((1, 0), (2, 1)):
            for number in np.unique(scene.levels[inner][scene.levels[inner] > 0]):
                around = np.unique(scene.levels[outer][scene.levels[inner] == number])
                assert len(around) == 1, "a region lies inside one region of the level before"


def test_nested_regions_by_hand():
    levels = np.zeros((3, 32, 32), np.uint8)
    levels[0] = 1
    levels[0, :16] = 2
    levels[1, :16, :16] = 5  # half of whole 2
    levels[2, :15, :16] = 9  # 15/16 of part 5: the same region
    regions = nested_regions(levels, levels, 3, 3)
    assert [(level, number, int(mask.sum())) for level, number, mask in regions] == [(1, 5, 256), (0, 2, 512)]
    assert [(level, number) for level, number, _ in nested_regions(levels, levels, 30, 3)] == [(0, 1)]


def test_sampled_prompts_lie_on_their_targets():
    rng = np.random.default_rng(0)
    scene = render_part_scene(3, 128)
    prompts = sample_prompts(scene.levels, 60, rng)
    assert prompts.targets.shape == (60, 3, 32, 32) and set(np.unique(prompts.labels)) == {-1, 0, 1, 2, 3}
    for coords, labels, targets, count in zip(
        prompts.coords, prompts.labels, prompts.targets, prompts.counts, strict=True
    ):
        areas = targets.sum((1, 2))
        assert (areas[:count] >= 8).all() and (areas[count:] == 0).all() and (np.diff(areas[:count]) > 0).all()
        if labels.tolist() == [2, 3, -1]:
            rows, columns = np.nonzero(targets[0])
            center = np.array([columns.mean(), rows.mean()]) * 4 + 2
            assert count == 1 and (coords[0] < center).all() and (center < coords[1]).all()


def test_a_map_without_regions_gives_padding():
    prompts = sample_prompts(np.zeros((3, 64, 64), np.uint8), 4, np.random.default_rng(0))
    assert prompts.counts.tolist() == [0] * 4 and (prompts.labels == -1).all() and not prompts.targets.any()
