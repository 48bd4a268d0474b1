"""Damaged files that a run wrote for itself: read as if they were missing, made again, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import DAMAGED_JSON, change_record
from weaksam.config import UserError
from weaksam.store.records import read_manifest, read_record, read_written_json
from weaksam.store.sealed import open_sealed
from weaksam.store.store import Store

COLUMNS = {"boxes": "boxes", "labels": "ints"}
IMAGE_IDS = ("a.jpg", "b.jpg", "c.jpg")


def store_in(folder: Path) -> Store:
    return Store(folder, stage="p", fingerprint="f" * 64, image_ids=IMAGE_IDS, columns=COLUMNS, part_size=2)


def filled(folder: Path, computed: list[str]) -> Store:
    """The store of three empty photos; ``computed`` gets the images that had to be computed."""

    def row(image_id: str) -> dict[str, Any]:
        computed.append(image_id)
        return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}

    return store_in(folder).fill(row)


@pytest.mark.parametrize("name", DAMAGED_JSON)
def test_a_damaged_file_is_no_record(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(DAMAGED_JSON[name])
    assert read_manifest(path) is None
    assert read_record(path) in (None, {}, {"stage": None, "parts": 3, "key": [], "sha256": 1, "settings": "x"})
    assert read_record(tmp_path / "missing.json") is None and read_written_json(tmp_path) is None


@pytest.mark.parametrize("name", DAMAGED_JSON)
def test_a_store_with_a_damaged_manifest_is_sealed_again_from_its_parts(tmp_path: Path, name: str) -> None:
    computed: list[str] = []
    manifest = filled(tmp_path / "s", computed).folder / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(DAMAGED_JSON[name])
    assert not store_in(tmp_path / "s").sealed
    with pytest.raises(UserError, match=r"is not sealed \(manifest.json is damaged\): run 'weaksam run' to finish it"):
        store_in(tmp_path / "s").read("a.jpg")
    with pytest.raises(UserError, match=r"wanted the manifest of a store in .*manifest.json, found another file"):
        open_sealed(tmp_path / "s")
    again = filled(tmp_path / "s", computed)
    assert len(again["a.jpg"]["boxes"]) == 0 and manifest.read_bytes() == whole
    assert computed == list(IMAGE_IDS)  # nothing was computed twice


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"parts": []}, "wanted 2 parts"),
        ({"fingerprint": "other"}, "another fingerprint"),
        ({"images": 5}, "another images"),
        ({"columns": {"boxes": "ints"}}, "another columns"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path: Path, change: dict[str, Any], found: str) -> None:
    manifest = filled(tmp_path / "s", []).folder / "manifest.json"
    change_record(manifest, **change)
    with pytest.raises(UserError, match=found) as caught:
        store_in(tmp_path / "s").read("a.jpg")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"columns": {"boxes": "circles"}},
        {"parts": [None]},
        {"parts": [{"file": 3, "rows": 2, "sha256": ""}]},
        {"format": "1"},
        {"stage": 7},
    ],
)
def test_somebody_elses_store_with_fields_of_other_kinds_is_one_sentence(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    manifest = filled(tmp_path / "s", []).folder / "manifest.json"
    change_record(manifest, **change)
    with pytest.raises(UserError, match="found another file: name a store's folder"):
        open_sealed(tmp_path / "s")


def test_somebody_elses_store_whose_parts_were_exchanged_is_one_sentence(tmp_path: Path) -> None:
    manifest = filled(tmp_path / "s", []).folder / "manifest.json"
    content = json.loads(manifest.read_text())
    for parts in (content["parts"][::-1], content["parts"][:1] * 2):
        change_record(manifest, parts=parts)
        with pytest.raises(UserError, match="is damaged"):
            open_sealed(tmp_path / "s")
    change_record(manifest, parts=content["parts"], columns={**COLUMNS, "scores": "floats"})
    with pytest.raises(UserError, match="wanted the column scores in"):
        next(iter(open_sealed(tmp_path / "s").rows()))
