"""Photos and given stores that change while a run is under way: named, nothing of them kept, the rest kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import TOY_RUN, proposals, write_photo
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.data import known_photos
from weaksam.data.proposals.files import write_store
from weaksam.pipeline.plan import stage_named
from weaksam.pipeline.settings import RunSettings, without_tags
from weaksam.pipeline.state import open_run

STAGE = stage_named("proposals")


def settings_of(folder: Path, out: str, *more: str) -> RunSettings:
    arguments = [*TOY_RUN, "workers=1", f"data.train.images={folder / 'photos'}", f"out={folder / out}", *more]
    return without_tags(load_settings(RunSettings, None, arguments))


def parts_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("proposals/store/*/*") if path.is_file()}


def test_a_photo_replaced_and_put_back_leaves_nothing_of_the_other_photo(tmp_path: Path) -> None:
    photos = [write_photo(tmp_path / "photos" / f"{number:02d}.png", number, (24, 32)) for number in range(34)]
    whole, other = photos[33].read_bytes(), write_photo(tmp_path / "other.png", 99, (24, 32)).read_bytes()
    run = open_run(settings_of(tmp_path, "changed"))
    photos[33].write_bytes(other)
    with pytest.raises(UserError, match=r"wanted the photo 33\.png as it was when it was loaded"):
        STAGE.run(run)
    (part,) = tmp_path.glob("changed/proposals/store/train-*/part-*.parquet")  # of the photos before it
    kept = part.read_bytes()
    photos[33].write_bytes(whole)
    pipeline.run(settings_of(tmp_path, "changed"), until="proposals")
    pipeline.run(settings_of(tmp_path, "unbroken"), until="proposals")
    assert part.read_bytes() == kept
    assert parts_of(tmp_path / "changed") == parts_of(tmp_path / "unbroken")


def test_a_run_that_goes_on_sees_another_photo_of_the_same_name_size_and_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_photos, "RECENT_NS", 0)
    photo = write_photo(tmp_path / "photos" / "0.bmp", 0, (24, 32))
    other = write_photo(tmp_path / "other.bmp", 1, (24, 32))
    first = open_run(settings_of(tmp_path, "out"))
    pipeline.run(settings_of(tmp_path, "out"), until="proposals")
    assert open_run(settings_of(tmp_path, "out")).finished("proposals")
    assert (tmp_path / "out" / "photos_train.parquet").is_file()
    os.utime(other, ns=(photo.stat().st_atime_ns, photo.stat().st_mtime_ns))
    assert other.stat().st_size == photo.stat().st_size
    os.replace(other, photo)
    changed = open_run(settings_of(tmp_path, "out"))
    assert changed.key("proposals") != first.key("proposals") and not changed.finished("proposals")


def test_a_given_store_that_is_replaced_is_not_read_as_the_first(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_photo(tmp_path / "photos" / name, 1, (24, 32))
    first = {name: proposals((1, 1, 9, 9, 0.5)) for name in ("a.png", "b.png")}
    folder = write_store(tmp_path / "given", first, 1).folder
    run = open_run(settings_of(tmp_path, "out", f"proposals.given.train={folder}"))
    assert run.inputs["given proposals of train"]
    for path in folder.iterdir():
        path.unlink()
    write_store(folder, {name: proposals((2, 2, 20, 20, 0.9)) for name in first}, 1)
    with pytest.raises(UserError, match=r"part-00000-\w+\.parquet is missing"):
        STAGE.run(run)
