"""Which files below a folder are photos: links, odd names and endings, and what is left out."""

import os
from pathlib import Path

import pytest

from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data.dataset import SplitSettings, load_photos
from weaksam.data.photos import list_photos, scan_photos


def test_linked_folders_and_files_are_followed(tmp_path) -> None:
    for name in ("store/1.jpg", "store/deep/2.jpg", "photos/3.jpg"):
        write_photo(tmp_path / name)
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "photos" / "4.jpg").symlink_to(tmp_path / "store" / "1.jpg")
    assert list(list_photos(tmp_path / "photos")) == ["3.jpg", "4.jpg", "linked/1.jpg", "linked/deep/2.jpg"]
    (tmp_path / "all").symlink_to(tmp_path / "photos")
    assert len(list_photos(tmp_path / "all")) == 4


def test_links_that_lead_around_are_left_out_and_counted(tmp_path) -> None:
    folder = tmp_path / "photos"
    for name in ("a/1.jpg", "z/2.jpg"):
        write_photo(folder / name)
    write_photo(tmp_path / "beside.jpg")
    (folder / "a" / "up").symlink_to(tmp_path)
    (folder / "a" / "self").symlink_to(folder / "a")
    (folder / "a" / "late").symlink_to(folder / "z")  # the real folder keeps its name
    scan = scan_photos(folder)
    assert list(scan.photos) == ["a/1.jpg", "z/2.jpg"]
    assert scan.left_out == {"linked folder that leads to another one here": 3}


def test_what_is_left_out_is_one_line(tmp_path) -> None:
    for name in ("a.JPG", "b.jpe", "c.Png"):
        write_photo(tmp_path / name, format="JPEG")
    for name in (
        "clip.mp4",
        "d.txt",
        "e.txt",
        "photo",
        ".hidden.jpg",
        "Thumbs.db",
        "__MACOSX/._a.jpg",
        "__MACOSX/a.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    scan = scan_photos(tmp_path)
    assert list(scan.photos) == ["a.JPG", "b.jpe", "c.Png"]
    assert scan.notes(tmp_path) == (f"photos in {tmp_path}: 3; left out: 2 .txt, 1 .mp4, 1 without an ending",)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "photo").write_bytes(b"")
    with pytest.raises(UserError, match=r"found only 1 without an ending: name the folder"):
        scan_photos(tmp_path / "only")


def test_a_name_that_is_not_utf8_is_set_aside_and_a_link_to_nothing_too(tmp_path) -> None:
    write_photo(tmp_path / "good.jpg")
    os.rename(write(tmp_path / "x.jpg"), os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    os.makedirs(os.fsencode(tmp_path) + b"/\xff")
    os.rename(write(tmp_path / "y.jpg"), os.fsencode(tmp_path) + b"/\xff/in.jpg")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "gone.jpg")
    dataset = load_photos(SplitSettings(images=tmp_path), name="train")
    assert dataset.image_ids == ("good.jpg",)
    assert dict(dataset.bad) == {
        "caf\\xe9.jpg": "has a name that is not UTF-8: rename it",
        "\\xff/in.jpg": "has a name that is not UTF-8: rename it",
        "lost.jpg": "is a link that leads nowhere",
    }


def write(path: Path) -> Path:
    write_photo(path)
    return path
