"""Take the proposals of a run's photos from a finished store, after checking that it was made from these photos."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from weaksam.config import Settings, UserError, listed
from weaksam.data.annotations import rle_from_box
from weaksam.data.image_names import ImageNames
from weaksam.data.proposals.files import open_store, stored_proposals
from weaksam.store.files import file_sha256, has_lines, write_lines_atomic
from weaksam.store.records import HASH_KEY, read_record
from weaksam.store.store import Store
from weaksam.structures.boxes import area, clip, pairwise_ioa, scale
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.masks import Rle
from weaksam.structures.proposals import Proposals

PHOTOS_FILE = "photos.json"
"""Beside a store's manifest: the SHA-256 of the photos it was made from. Stores without it stay valid."""
MASK_SIDE = 256
"""Long side, pixels, of the frame in which a box without a mask gets one."""
LEAST_INSIDE = 0.5
"""A box of which less than this share of its area lies in its photo belongs to another."""


class GivenSettings(Settings):
    """Folders of sealed stores whose proposals are used instead of prompting the segmenter; both splits or none."""

    train: Path | None = Field(default=None, description="store of the training photos' proposals")
    test: Path | None = Field(default=None, description="store of the test photos' proposals")

    @property
    def folders(self) -> dict[str, Path]:
        """Those that are set, by split."""
        both = {"train": self.train, "test": self.test}
        return {split: folder for split, folder in both.items() if folder is not None}

    @staticmethod
    def are_in(given: Any) -> bool:
        """Whether settings that may not be validated yet name a folder."""
        values = given.folders if isinstance(given, GivenSettings) else given
        return isinstance(values, Mapping) and any(value is not None for value in values.values())


@dataclass(frozen=True)
class GivenProposals:
    """A sealed store that belongs to the photos of a split: ``name_of`` is its name of each of them.

    ``knows_photos``: whether it recorded the photos' content, so that this was compared and not their names alone.
    """

    store: Store
    name_of: Mapping[str, str]
    knows_photos: bool

    @property
    def fingerprint(self) -> str:
        """What the given store was made from."""
        return self.store.fingerprint

    def of(self, sample: Sample) -> Proposals:
        """The proposals of one photo, best score first, clipped to it, each with a mask.

        Boxes without area in the photo are left out. Raises `UserError` where a box lies mostly outside of it.
        """
        proposals = stored_proposals(self.store, self.name_of[sample.image_id])
        _refuse_boxes_outside(proposals.boxes, sample, self.store.folder)
        clipped = replace(proposals, boxes=clip(proposals.boxes, sample.size))
        with_area = clipped[(area(clipped.boxes) > 0).nonzero()[:, 0]]
        return with_box_masks(with_area.by_score(), sample.size)


def given_store(given: GivenSettings, dataset: Dataset, split: str) -> GivenProposals:
    """The store that ``given`` names for ``split``, checked against its photos; `UserError` where none is named.

    Boxes of one maker to train on and of another to test on would measure neither, so both are given or none.
    """
    folder = given.folders.get(split)
    if folder is None:
        raise UserError(
            f"wanted given proposals of both splits, found proposals.given.{split} not set: set it to a store of the "
            f"{split} photos' proposals, or leave proposals.given out"
        )
    return open_given(folder, dataset)


def open_given(folder: Path, dataset: Dataset) -> GivenProposals:
    """The sealed store of proposals in ``folder``, after making sure that it is of exactly the photos of ``dataset``.

    Images are found by name, with or without ending; photos that could not be read may be in it. Raises `UserError`
    where it is no such store, where images are missing or are others, and where the store recorded other photos of the
    same names.
    """
    store = open_store(folder)
    set_aside = [name for name, _ in dataset.bad]
    key_of = ImageNames([*dataset.image_ids, *set_aside]).find_all(store.image_ids, str(folder))
    name_of = {image_id: str(key) for image_id, key in key_of.items() if image_id in dataset.by_id}
    missing = [image_id for image_id in dataset.image_ids if image_id not in name_of]
    known = set(key_of.values())
    extra = [name for name in store.image_ids if name not in known]
    if missing or extra:
        raise UserError(
            f"wanted proposals of exactly the {len(dataset)} {dataset.name} photos in {folder}, found "
            f"{_differences(missing, extra)}: give the store that was made from these photos"
        )
    recorded = recorded_photos(folder)
    _refuse_other_photos({image_id: recorded.get(name) for image_id, name in name_of.items()}, dataset, folder)
    return GivenProposals(store, name_of, bool(recorded))


def _differences(missing: Sequence[str], extra: Sequence[str]) -> str:
    """Which images a store lacks and which others it has, in words."""
    parts = [f"none for {len(missing)} of them (first: {missing[0]})"] if missing else []
    return " and ".join(parts + ([f"{len(extra)} other images (first: {extra[0]})"] if extra else []))


def _refuse_other_photos(recorded: Mapping[str, str | None], dataset: Dataset, folder: Path) -> None:
    """`UserError` where the store was made from photos of the same name and other content."""
    hashes = photo_hashes(dataset) if any(recorded.values()) else {}
    others = [image_id for image_id, sha256 in recorded.items() if sha256 and sha256 != hashes[image_id]]
    if others:
        raise UserError(
            f"wanted proposals made from the {len(dataset)} {dataset.name} photos, found that {folder} was made from "
            f"other files for {len(others)} of their names ({listed(others, 3)}): give the store that was made from "
            "these photos"
        )


def _refuse_boxes_outside(boxes: Tensor, sample: Sample, folder: Path) -> None:
    """`UserError` where a box with an area lies mostly outside the photo."""
    height, width = sample.size
    inside = pairwise_ioa(boxes, boxes.new_tensor([[0, 0, width, height]]))[:, 0]
    outside = boxes[(inside < LEAST_INSIDE) & (area(boxes) > 0)]
    if len(outside):
        first = ", ".join(f"{value:g}" for value in outside[0].tolist())
        raise UserError(
            f"wanted boxes inside {sample.image_id} ({width} x {height} pixels) in {folder}, found {len(outside)} of "
            f"{len(boxes)} mostly outside of it (first: {first}): give boxes in pixels of this very photo, upright and "
            "in its full size"
        )


def with_box_masks(proposals: Proposals, size: tuple[int, int]) -> Proposals:
    """The same proposals where they have masks; else each box filled, in a frame of the photo ``(H, W)`` scaled to 256.

    Boxes must lie in the photo. A mask holds every pixel of the frame that its box touches, so none is empty.
    """
    if len(proposals) and proposals.has_masks:
        return proposals
    frame = mask_frame(size)
    return replace(proposals, rles=tuple(box_masks(proposals.boxes, size, frame)), mask_size=frame)


def mask_frame(size: tuple[int, int]) -> tuple[int, int]:
    """``(h, w)`` of the frame for a photo ``(H, W)``: at most 256 pixels on its longer side, never enlarged."""
    ratio = min(1.0, MASK_SIDE / max(size))
    height, width = (max(1, round(side * ratio)) for side in size)
    return height, width


def box_masks(boxes: Tensor, size: tuple[int, int], frame: tuple[int, int]) -> list[Rle]:
    """One filled rectangle per box ``(N, 4)`` of a photo ``(H, W)``, in a frame ``(h, w)`` that covers it."""
    in_frame = scale(boxes.double(), frame[1] / size[1], frame[0] / size[0]).tolist()
    return [
        rle_from_box((math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)), frame)
        for x1, y1, x2, y2 in in_frame
    ]


# What a store says of the photos it was made from


def photo_hashes(dataset: Dataset) -> Mapping[str, str]:
    """SHA-256 of every photo's bytes, by image id; each taken when it is asked for."""
    return _PhotoHashes(dataset)


class _PhotoHashes(Mapping[str, str]):
    def __init__(self, dataset: Dataset) -> None:
        self._samples = dataset.by_id

    def __getitem__(self, image_id: str) -> str:
        sample = self._samples[image_id]
        return sample.sha256 or file_sha256(sample.path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)


def record_photos(folder: Path, hashes: Mapping[str, str]) -> None:
    """Write beside a store which photos (SHA-256 by image id) it was made from; one that says so is left as it is.

    Raises `UserError` where it names others.
    """
    path = folder / PHOTOS_FILE
    if has_lines(path, _record_lines(hashes)):
        return
    recorded = recorded_photos(folder)
    if not recorded:
        write_lines_atomic(path, _record_lines(hashes))
    elif recorded != dict(hashes):
        raise UserError(
            f"wanted a store made from these photos in {folder}, found one made from others: name another folder"
        )


def _record_lines(hashes: Mapping[str, str]) -> Iterator[str]:
    """The record of these photos line by line, as `write_record` has it, without holding a million of them twice."""
    digest = hashlib.sha256(b'{"sha256":{')
    yield "{"
    yield '"sha256": {'
    names = sorted(hashes)
    for number, name in enumerate(names, start=1):
        key, value = json.dumps(name), json.dumps(hashes[name])
        digest.update(f"{',' if number > 1 else ''}{key}:{value}".encode())
        yield f"{key}: {value}{',' if number < len(names) else ''}"
    digest.update(b"}}")
    yield "},"
    yield f'"{HASH_KEY}": "{digest.hexdigest()}"'
    yield "}"


def recorded_photos(folder: Path) -> dict[str, str]:
    """SHA-256 by image id of the photos that the store in ``folder`` was made from; empty where it does not say."""
    path = folder / PHOTOS_FILE
    if not path.exists():
        return {}
    hashes = (read_record(path) or {}).get("sha256")
    if not isinstance(hashes, dict):
        raise UserError(
            f"wanted the photos' SHA-256 in {path}, found a damaged file or another: delete it, and a rerun of "
            "what made the store writes it again"
        )
    return {str(name): str(value) for name, value in hashes.items()}
