"""Parts that were damaged before or after their store was sealed: never used, and only they are made again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import change_record, flip, part_file
from weaksam.config import UserError
from weaksam.store.parts import part_names, write_part
from weaksam.store.records import HASH_KEY, read_manifest, read_record, write_record
from weaksam.store.store import Store

IMAGE_IDS = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


def store_in(folder: Path) -> Store:
    columns = {"boxes": "boxes", "labels": "ints"}
    return Store(folder, stage="p", fingerprint="f" * 64, image_ids=IMAGE_IDS, columns=columns, part_size=2)


def row(image_id: str) -> dict[str, Any]:
    number = IMAGE_IDS.index(image_id)
    return {"image_id": image_id, "boxes": torch.arange(4.0 * number).reshape(-1, 4), "labels": torch.arange(number)}


def half_filled(folder: Path) -> Store:
    """A store of two parts of which the first is written."""
    store = store_in(folder)
    store.write(store.parts[0], map(row, IMAGE_IDS[:2]))
    return store


def test_no_flipped_bit_of_an_unsealed_part_is_sealed(tmp_path: Path) -> None:
    path = part_file(half_filled(tmp_path).folder)
    whole = path.read_bytes()
    draw = random.Random(0)
    positions = [*range(8), *range(len(whole) - 8, len(whole)), *draw.sample(range(len(whole)), 200)]
    for position in positions:
        flip(path, position, draw.randrange(8))
        assert [part.index for part in store_in(tmp_path).missing_parts()] == [0, 1]
        path.write_bytes(whole)
    assert [part.index for part in store_in(tmp_path).missing_parts()] == [1]


def test_a_damaged_part_alone_is_made_again_and_its_file_removed(tmp_path: Path) -> None:
    store_in(tmp_path / "unbroken").fill(row)
    path = part_file(half_filled(tmp_path / "s").folder)
    flip(path, -20)
    path.rename(path.with_name("part-00000-0123456789abcdef.parquet"))
    store_in(tmp_path / "s").fill(row)
    for name in ("unbroken", "s"):
        names = sorted(file.name for file in (tmp_path / name).iterdir())
        assert names == ["manifest.json", part_file(tmp_path / name).name, part_file(tmp_path / name, 1).name]
    assert part_names(tmp_path / "s") == part_names(tmp_path / "unbroken")


def test_a_part_that_was_damaged_after_it_was_written_is_not_sealed(tmp_path: Path) -> None:
    store = half_filled(tmp_path)
    store.write(store.parts[1], map(row, IMAGE_IDS[2:]))
    flip(part_file(tmp_path, 1), 30)
    with pytest.raises(UserError, match=r"part-00001-.* was damaged after it was written: run 'weaksam run' again"):
        store.seal()
    computed: list[str] = []
    store_in(tmp_path).fill(lambda image_id: computed.append(image_id) or row(image_id))
    assert computed == ["c.jpg", "d.jpg"]


def test_a_part_of_another_schema_is_no_part_of_the_store(tmp_path: Path) -> None:
    store = half_filled(tmp_path / "s")
    others = Store(tmp_path / "o", stage="p", fingerprint="f" * 64, image_ids=IMAGE_IDS, columns={"boxes": "floats"})
    others.fill(lambda _: {"boxes": torch.zeros(3)})
    write_part(store.folder, store.parts[0], part_file(tmp_path / "o").read_bytes())
    with pytest.raises(UserError, match="belongs to another store"):
        store_in(tmp_path / "s").missing_parts()


def test_two_whole_files_of_a_part_become_one(tmp_path: Path) -> None:
    """Two processes that computed a part and did not get the same bytes, as on a GPU."""
    store = half_filled(tmp_path)
    path = part_file(tmp_path)
    first = path.read_bytes()
    store.write(store.parts[0], [{**row(name), "labels": torch.tensor([7])} for name in IMAGE_IDS[:2]])
    path.write_bytes(first)
    store_in(tmp_path).fill(row)
    assert len(part_names(tmp_path)[0]) == 1
    assert [row["image_id"] for row in store_in(tmp_path).rows()] == list(IMAGE_IDS)


def test_a_manifest_that_names_files_elsewhere_is_none(tmp_path: Path) -> None:
    store_in(tmp_path / "s").fill(row)
    manifest = tmp_path / "s" / "manifest.json"
    parts = [{**part, "file": f"../s/{part['file']}"} for part in json.loads(manifest.read_text())["parts"]]
    change_record(manifest, parts=parts)
    assert read_manifest(manifest) is None


def test_every_flipped_bit_of_a_record_is_seen_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = {"name": "Ä", "numbers": [1, 2.5, None, True], "nested": {"path": Path("a/b"), "none": float("nan")}}
    write_record(path, record)
    written = read_record(path)
    assert written == {"name": "Ä", "numbers": [1, 2.5, None, True], "nested": {"path": "a/b", "none": None}}
    assert list(json.loads(path.read_text())) == ["name", "numbers", "nested", HASH_KEY]
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            flip(path, position, bit)
            damaged = read_record(path)
            if damaged is not None:
                # A flip in the key of the hash: the record reads as one without it, with one entry more
                assert {key: damaged.get(key) for key in written} == written
            path.write_bytes(whole)
    path.write_text(json.dumps({"older": 1}))
    assert read_record(path) == {"older": 1}
