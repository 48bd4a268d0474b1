"""Photos, masks and scribbles are paired by name, and what cannot be used is refused in one sentence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weaksam.config import UserError
from weaksam.recipes.concealed.photos import check_scribbles, load_concealed
from weaksam.recipes.concealed.settings import ConcealedSplit

SIZE = (20, 30)


def write(path: Path, levels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three photos whose masks and scribbles tell which they are."""
    for number, name in enumerate(("b", "a", "c"), start=1):
        write(tmp_path / "Imgs" / f"{name}.jpg", np.full((*SIZE, 3), 60 * number))
        mask, scribble = np.zeros(SIZE), np.zeros(SIZE)
        mask[:number], scribble[0, :number], scribble[15, :3] = 255, 1, 2
        write(tmp_path / "GT" / f"{name}.png", mask)
        write(tmp_path / "Scribble" / f"{name}.png", scribble)
    return tmp_path


def loaded(root: Path, **changes: Path):
    return load_concealed(ConcealedSplit(root=root, **changes), "train")


def test_the_order_of_the_files_cannot_pair_wrongly(root: Path) -> None:
    write(root / "Scribble" / "0.png", np.zeros(SIZE))  # of no photo: shifts every list that is paired by place
    write(root / "GT" / "0.png", np.zeros(SIZE))
    photos = loaded(root)
    assert photos.image_ids == ("a.jpg", "b.jpg", "c.jpg")
    for image_id, number in (("b.jpg", 1), ("a.jpg", 2), ("c.jpg", 3)):
        assert photos.image(image_id)[0, 0, 0] == pytest.approx(60 * number, abs=2)
        assert photos.mask(image_id).sum() == number * SIZE[1]
        labels = photos.labels(image_id)
        assert (labels == 1).sum() == number and (labels == 0).sum() == 3
        assert (labels == -1).sum() == SIZE[0] * SIZE[1] - number - 3
    assert photos.only(("c.jpg",)).image_ids == ("c.jpg",)


def test_the_fingerprint_names_photos_and_scribbles_but_no_truth(root: Path) -> None:
    before, truth_before = loaded(root).fingerprint, loaded(root).truth_fingerprint
    write(root / "GT" / "a.png", np.full(SIZE, 255))
    assert loaded(root).fingerprint == before and loaded(root).truth_fingerprint != truth_before
    write(root / "Scribble" / "a.png", np.ones(SIZE))
    assert loaded(root).fingerprint != before


def test_folders_may_lie_elsewhere_or_be_missing(root: Path, tmp_path: Path) -> None:
    (root / "Scribble").rename(root / "drawn")
    photos = loaded(root)
    assert photos.scribbles == {} and (photos.labels("a.jpg") == -1).all()
    assert set(loaded(root, scribbles=root / "drawn").scribbles) == {"a.jpg", "b.jpg", "c.jpg"}
    with pytest.raises(UserError, match="wanted scribbles of the training photos, found none"):
        check_scribbles(photos, both=True)
    with pytest.raises(UserError, match=r"set data\.train\.root or data\.train\.images"):
        load_concealed(ConcealedSplit(), "train")


def test_bad_scribbles_are_one_sentence_each(root: Path) -> None:
    path = root / "Scribble" / "a.png"
    good = np.zeros(SIZE)
    good[0, 0], good[5, 5] = 1, 2
    object_alone, background_alone, smooth = good.copy(), good.copy(), good.copy()
    object_alone[5, 5] = background_alone[0, 0] = 0
    smooth[0, 1] = 37
    for levels, wanted in (
        (np.zeros(SIZE), "found an empty picture"),
        (object_alone, r"found none on the background \(level 2\)"),
        (background_alone, r"found none on the object \(level 1\)"),
        (smooth, "found 37 too: save scribbles without smoothed edges"),
        (good[:10], "wanted a scribble of 30 x 20 pixels, as its photo has"),
    ):
        write(path, levels)
        with pytest.raises(UserError, match=wanted) as error:
            check_scribbles(loaded(root), both=True)
        assert "\n" not in str(error.value) and "a.png" in str(error.value)
    write(path, object_alone)
    check_scribbles(loaded(root), both=False)  # points on the object are enough
    path.unlink()
    with pytest.raises(UserError, match=r"wanted a scribble of every photo in .*Scribble, found none of a: add a\.png"):
        loaded(root)
    write(path, good)
    (root / "GT" / "c.png").unlink()
    with pytest.raises(UserError, match="wanted a true mask of every photo"):
        loaded(root)
    write(root / "GT" / "c.png", good[:, :9])
    with pytest.raises(UserError, match="wanted a true mask of 30 x 20 pixels"):
        loaded(root).mask("c.jpg")
    write(root / "Imgs" / "c.png", np.zeros((*SIZE, 3)))
    with pytest.raises(UserError, match="differ in their ending"):
        loaded(root)
