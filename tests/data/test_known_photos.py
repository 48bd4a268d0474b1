"""Which photos are read again by a later run: those that changed in any way, and no others."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers import write_photo
from weaksam.data import known_photos
from weaksam.data.dataset import KnownPhotos, SplitSettings, load_photos
from weaksam.data.images import LIMITS
from weaksam.data.photo_limits import PhotoLimits
from weaksam.structures.dataset import Dataset

OTHER = bytes(range(32))
"""A hash that no photo has: who sees it did not read the photo."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two photos, which need not be old to be remembered."""
    monkeypatch.setattr(known_photos, "RECENT_NS", 0)
    for number, name in enumerate(("a.png", "b.png")):
        write_photo(tmp_path / "photos" / name, number, (24, 32))
    return tmp_path


def loaded(folder: Path, keep: bool = True, limits: PhotoLimits = LIMITS, out: str = "out") -> Dataset:
    known = KnownPhotos(folder / out, keep)
    return load_photos(SplitSettings(images=folder / "photos"), name="train", limits=limits, known=known)


def hashes(dataset: Dataset) -> list[str]:
    return [sample.sha256 for sample in dataset]


def true_hashes(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folder / "photos").iterdir())]


def remember_another_hash(folder: Path) -> None:
    """Let the file say of the photo a.png that it has the hash `OTHER`."""
    path = folder / "out" / "photos_train.parquet"
    table = pq.read_table(path)
    changed = pa.array([OTHER, *table["sha256"].to_pylist()[1:]], pa.binary(32))
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table.set_column(1, "sha256", changed), path, write_page_checksum=True, **plain)


def test_a_photo_that_did_not_change_is_not_read_again(folder: Path) -> None:
    first = loaded(folder)
    assert hashes(first) == true_hashes(folder)
    assert loaded(folder) == first
    remember_another_hash(folder)
    assert hashes(loaded(folder)) == [OTHER.hex(), true_hashes(folder)[1]]
    turned = {sample.image_id: (sample.size, sample.num_bytes) for sample in loaded(folder)}
    assert turned == {sample.image_id: (sample.size, sample.num_bytes) for sample in first}


def replace_alike(path: Path) -> None:
    """Another photo in the place of one, of the same number of bytes and the same date."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1  # of the check sum of the last chunk, which Pillow does not read
    path.with_name("new").write_bytes(data)
    os.utime(path.with_name("new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(path.with_name("new"), path)


def write_alike(path: Path) -> None:
    """The same, written into the file itself."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_larger(path: Path) -> None:
    write_photo(path, 7, (48, 32))


@pytest.mark.parametrize("change", [replace_alike, write_alike, write_larger])
def test_a_photo_that_changed_is_read_again(folder: Path, change: Callable[[Path], None]) -> None:
    first = loaded(folder)
    remember_another_hash(folder)
    change(folder / "photos" / "a.png")
    again = loaded(folder)
    assert hashes(again) == true_hashes(folder)
    assert hashes(again)[0] != hashes(first)[0]
    assert again.fingerprint != first.fingerprint


def test_a_photo_that_changed_just_now_is_not_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_photos, "RECENT_NS", 3600 * 10**9)
    loaded(folder)
    assert not (folder / "out").exists()


def test_copies_with_dates_of_their_own_are_read_and_have_the_same_fingerprint(folder: Path) -> None:
    first = loaded(folder)
    remember_another_hash(folder)
    shutil.copytree(folder / "photos", folder / "copies")
    shutil.rmtree(folder / "photos")
    (folder / "copies").rename(folder / "photos")
    assert loaded(folder).fingerprint == first.fingerprint


def damage(folder: Path) -> None:
    path = folder / "out" / "photos_train.parquet"
    data = bytearray(path.read_bytes())
    place = data.index(OTHER)
    data[place] ^= 1
    path.write_bytes(data)


def cut(folder: Path) -> None:
    os.truncate(folder / "out" / "photos_train.parquet", 100)


def be_of_other_columns(folder: Path) -> None:
    path = folder / "out" / "photos_train.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["orientation"]), path)


@pytest.mark.parametrize("spoil", [damage, cut, be_of_other_columns])
def test_a_file_that_is_not_whole_remembers_nothing(folder: Path, spoil: Callable[[Path], None]) -> None:
    loaded(folder)
    remember_another_hash(folder)
    spoil(folder)
    assert hashes(loaded(folder)) == true_hashes(folder)
    remember_another_hash(folder)  # it was written again
    assert hashes(loaded(folder))[0] == OTHER.hex()


@pytest.mark.parametrize("what", ["__version__", "pillow", "limits"])
def test_what_another_version_read_or_by_other_limits_is_read_again(
    folder: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(folder)
    remember_another_hash(folder)
    if what == "limits":
        assert hashes(loaded(folder, limits=PhotoLimits(max_pixels=24 * 32))) == true_hashes(folder)
        return
    monkeypatch.setattr(known_photos if what == "__version__" else known_photos.PIL, "__version__", "0.0.1")
    assert hashes(loaded(folder)) == true_hashes(folder)


def test_photos_that_cannot_be_read_are_named_each_time_until_they_are_mended(folder: Path) -> None:
    whole = (folder / "photos" / "a.png").read_bytes()
    (folder / "photos" / "a.png").write_bytes(whole[:40])
    (folder / "photos" / "c.png").symlink_to(folder / "nowhere")
    for _ in range(2):
        dataset = loaded(folder)
        assert [sample.image_id for sample in dataset] == ["b.png"]
        reasons = dict(dataset.bad)
        assert "a.png" in reasons and reasons["c.png"] == "is a link that leads nowhere"
    (folder / "photos" / "a.png").write_bytes(whole)
    (folder / "photos" / "c.png").unlink()
    assert hashes(loaded(folder)) == true_hashes(folder)
    assert len(pq.read_table(folder / "out" / "photos_train.parquet")) == 2


def test_only_the_process_that_keeps_writes(folder: Path) -> None:
    loaded(folder, keep=False)
    assert not (folder / "out").exists()
    loaded(folder)
    remember_another_hash(folder)
    assert hashes(loaded(folder, keep=False))[0] == OTHER.hex()
