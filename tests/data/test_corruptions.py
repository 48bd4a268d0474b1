"""Corruptions of photos as COCO-C has them: every kind at every severity, by seeds, and folders of them."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import noise_photo, write_photo
from weaksam.config import UserError
from weaksam.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from weaksam.data.images import read_image
from weaksam.pipeline.corrupting import corrupt_folder

needs_library = pytest.mark.skipif(find_spec("imagecorruptions") is None, reason="needs imagecorruptions-imaug")


@needs_library
def test_the_library_has_these_fifteen_first() -> None:
    from imagecorruptions import get_corruption_names

    assert tuple(get_corruption_names("common")) == CORRUPTIONS and len(CORRUPTIONS) == 15


@needs_library
@pytest.mark.slow
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_each_changes_a_photo_by_its_seed_alone(corruption) -> None:
    image = np.clip(np.add.outer(np.arange(40), 2 * np.arange(64))[..., None] + [0, 30, 60], 0, 255).astype(np.uint8)
    drawn = np.random.get_state()[1].copy()
    strong = []
    for severity in SEVERITIES:
        first, again = (corrupted(image, corruption, severity, 3) for _ in range(2))
        assert first.shape == image.shape and first.dtype == np.uint8 and np.array_equal(first, again)
        strong.append(np.abs(first.astype(int) - image).mean())
    assert strong[-1] > 0 and (np.random.get_state()[1] == drawn).all()


@needs_library
def test_noise_follows_the_seed_and_grows_with_severity() -> None:
    image = np.full((32, 32, 3), 128, dtype=np.uint8)
    weak, strong = (corrupted(image, "gaussian_noise", severity, 0).std() for severity in (1, 5))
    assert 15 < weak < 25 and 60 < strong < 100  # .08 and .38 of 255, before clipping
    assert not np.array_equal(corrupted(image, "gaussian_noise", 1, 0), corrupted(image, "gaussian_noise", 1, 1))
    with pytest.raises(ValueError, match="at least 32 pixels, found 31 x 40"):
        corrupted(np.zeros((40, 31, 3), np.uint8), "contrast", 1, 0)


@needs_library
def test_a_folder_is_corrupted_photo_by_photo_and_resumed(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_photo(photos / "a.jpg", 0, (40, 50))
    write_photo(photos / "b" / "c.png", 1, (40, 50))
    write_photo(photos / "small.png", 2, (12, 16))
    assert corrupt_folder(photos, out, "contrast", 5) == 2
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == ["a.png", "b/c.png"]
    written = (out / "a.png").read_bytes()
    (out / "a.png").unlink()
    corrupt_folder(photos, out, "contrast", 5)
    assert (out / "a.png").read_bytes() == written
    assert read_image(out / "a.png").std() < read_image(photos / "a.jpg").std() / 2
    with pytest.raises(UserError, match="name another folder"):
        corrupt_folder(photos, out, "contrast", 4)


@needs_library
def test_what_cannot_be_corrupted_is_one_sentence(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    with pytest.raises(UserError, match="wanted a folder of photos"):
        corrupt_folder(photos, tmp_path / "out", "fog", 1)
    photos.mkdir()
    with pytest.raises(UserError, match="found none: name the folder"):
        corrupt_folder(photos, tmp_path / "out", "fog", 1)
    write_photo(photos / "a.png")
    with pytest.raises(UserError, match="none that can be corrupted"):
        corrupt_folder(photos, tmp_path / "out", "fog", 1)
    write_photo(photos / "a.jpg")
    with pytest.raises(UserError, match="differ in more than their endings"):
        corrupt_folder(photos, tmp_path / "other", "fog", 1)
    with pytest.raises(UserError, match="wanted a folder outside"):
        corrupt_folder(photos, photos / "out", "fog", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("mine")
    (photos / "a.jpg").unlink()
    with pytest.raises(UserError, match="wanted an empty folder"):
        corrupt_folder(photos, tmp_path / "full", "fog", 1)


def test_without_the_library_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(UserError, match=r"weaksam\[corruptions\]"):
        corrupt_folder(tmp_path, tmp_path / "out", "fog", 1)
    with pytest.raises(UserError, match=r"weaksam\[corruptions\]"):
        corrupted(noise_photo((40, 40)), "fog", 1, 0)
