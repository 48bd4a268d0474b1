"""Scenes of concealed objects and what is scribbled on them: the same bytes, exact masks, labels where they belong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import output, refused
from weaksam.config import UserError
from weaksam.scenes.camouflage import CamouflageSettings, render_camouflage, write_camouflage
from weaksam.structures.scribbles import BACKGROUND, FOREGROUND, ScribbleStyle, scribbled

SMALL = CamouflageSettings(size=64)


def test_same_seed_same_bytes_and_labels_change_no_picture() -> None:
    first, again, other = (render_camouflage(SMALL, seed) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes() and first.scribble.tobytes() == again.scribble.tobytes()
    assert first.image.tobytes() != other.image.tobytes()
    points = render_camouflage(SMALL.model_copy(update={"labels": "points"}), 5)
    assert points.image.tobytes() == first.image.tobytes() and points.scribble.tobytes() != first.scribble.tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_scribbles_lie_where_they_say(seed: int) -> None:
    scene = render_camouflage(SMALL, seed)
    assert scene.mask.any() and not scene.mask.all() and scene.image.shape == (64, 64, 3)
    assert scene.mask[scene.scribble == FOREGROUND].all() and not scene.mask[scene.scribble == BACKGROUND].any()
    assert {FOREGROUND, BACKGROUND} <= set(np.unique(scene.scribble).tolist())


def test_an_object_hardly_differs_from_what_is_behind_it() -> None:
    """Its mean colour lies within the background's own spread, unlike that of ordinary scenes."""
    offsets = []
    for seed in range(20):
        scene = render_camouflage(SMALL, seed)
        inside, outside = scene.image[scene.mask].astype(float), scene.image[~scene.mask].astype(float)
        offsets.append(np.abs(inside.mean(0) - outside.mean(0)).max() / outside.std(0).max())
    assert np.median(offsets) < 1.0


def test_points_are_as_many_as_wanted_and_every_object_has_a_stroke() -> None:
    mask = np.zeros((40, 50), bool)
    mask[5:15, 5:15] = mask[25:35, 30:45] = True
    rng = np.random.default_rng(0)
    points = scribbled(mask, ScribbleStyle("points", num_points=10), rng)
    assert (points == FOREGROUND).sum() == 10 and (points == BACKGROUND).sum() == 10
    strokes = scribbled(mask, ScribbleStyle(), rng)
    for window in (np.s_[5:15, 5:15], np.s_[25:35, 30:45]):
        assert (strokes[window] == FOREGROUND).any()
    few = np.zeros((4, 4), bool)
    few[0, 0] = True
    assert (scribbled(few, ScribbleStyle("points", num_points=3), rng) == FOREGROUND).sum() == 1
    assert not (scribbled(few & False, ScribbleStyle(), rng) == FOREGROUND).any()
    assert not (scribbled(few | True, ScribbleStyle(), rng) == BACKGROUND).any()


@pytest.mark.parametrize("kind", ["scribble", "points"])
def test_slips_leave_the_object_for_a_place_near_it(kind: str) -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    levels = scribbled(mask, ScribbleStyle(kind, num_points=10, slips=1.0), np.random.default_rng(1))
    slipped = np.argwhere((levels == FOREGROUND) & ~mask)
    assert len(slipped) > 0
    beyond = np.maximum(20 - slipped, slipped - 39).clip(min=0)
    assert np.hypot(*beyond.T).max() <= 0.35 * 20 + 2  # a stroke has a width


def test_a_dataset_has_the_standard_layout_and_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("first", "again"):
        splits = write_camouflage(tmp_path / folder, SMALL, 2, 1, 1, seed=3)
        assert set(splits) == {"train", "validation", "test"}
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.*"))
    assert [path.as_posix() for path in files if path.parts[0] == "validation"] == [
        "validation/GT/validation_00000.png",
        "validation/Imgs/validation_00000.jpg",
        "validation/Scribble/validation_00000.png",
    ]
    assert len(files) == 12
    for path in files:
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "again" / path).read_bytes()
    with pytest.raises(UserError, match="wanted 1 or more train"):
        write_camouflage(tmp_path / "none", SMALL, 0, 0, 1, seed=0)


def test_commands_write_scenes_and_scribbles_of_masks(tmp_path: Path) -> None:
    numbers = ["--train", 2, "--validation", 0, "--test", 1]
    assert "train:" in output("data", "camouflage", tmp_path / "scenes", "size=64", *numbers)
    masks = tmp_path / "scenes" / "train" / "GT"
    text = output("concealed", "scribbles", masks, tmp_path / "drawn", "--kind", "points", "--num-points", 4)
    assert text.startswith("2 pictures of points")
    drawn = sorted((tmp_path / "drawn").glob("*.png"))
    assert [path.name for path in drawn] == ["train_00000.png", "train_00001.png"]
    with Image.open(drawn[0]) as picture:
        levels = np.array(picture)
    assert (levels == FOREGROUND).sum() == 4
    before = drawn[1].read_bytes()
    (masks / "train_00000.png").unlink()  # what is drawn for a mask does not depend on the others
    output("concealed", "scribbles", masks, tmp_path / "drawn", "--kind", "points", "--num-points", 4)
    assert drawn[1].read_bytes() == before
    assert "a folder of its own" in refused("concealed", "scribbles", masks, masks)
    assert "--kind scribble or points" in refused("concealed", "scribbles", masks, tmp_path, "--kind", "boxes")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(masks / "empty.png")
    assert "found an empty mask" in refused("concealed", "scribbles", masks, tmp_path / "drawn")
