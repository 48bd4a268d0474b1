"""Pair photos with true masks and scribbles by their names, and check what was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError, fingerprint_of, listed
from weaksam.data.dataset import SplitSettings, load_photos
from weaksam.data.formats.voc import read_indices
from weaksam.data.grey_pictures import pictures_by_name, read_mask, require_pairs
from weaksam.data.sample_photos import read_photo
from weaksam.recipes.concealed.settings import ConcealedSplit
from weaksam.scenes.camouflage import FOLDERS
from weaksam.store.files import file_sha256
from weaksam.structures.dataset import Dataset
from weaksam.structures.scribbles import BACKGROUND, FOREGROUND
from weaksam.structures.scribbles import UNLABELLED as NOTHING_DRAWN

LABEL_OF_LEVEL = {NOTHING_DRAWN: -1, FOREGROUND: 1, BACKGROUND: 0}
"""What the losses call each level of a scribble picture."""


@dataclass(frozen=True)
class ConcealedPhotos:
    """The photos of a split in the order of their ids, with the files of their masks and scribbles by image id.

    ``truth`` and ``scribbles`` are empty where the split has none, else each photo is in them.
    """

    dataset: Dataset
    truth: Mapping[str, Path] = field(default_factory=dict)
    scribbles: Mapping[str, Path] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the photos, sorted."""
        return self.dataset.image_ids

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the photos and of the bytes of their scribbles; the truth has no part in it."""
        scribbles = {image_id: file_sha256(path) for image_id, path in self.scribbles.items()}
        return fingerprint_of([self.dataset.fingerprint, scribbles])

    @cached_property
    def truth_fingerprint(self) -> str:
        """Hash of the bytes of the true masks."""
        return fingerprint_of({image_id: file_sha256(path) for image_id, path in self.truth.items()})

    def image(self, image_id: str) -> np.ndarray:
        """The photo, uint8 ``(H, W, 3)``."""
        return read_photo(self.dataset.by_id[image_id])

    def mask(self, image_id: str) -> Tensor:
        """The true mask, bool ``(H, W)`` at the photo's size; `UserError` where it has another."""
        mask = torch.from_numpy(read_mask(self.truth[image_id]))
        _check_size(tuple(mask.shape), self.dataset.by_id[image_id].size, self.truth[image_id], "true mask")
        return mask

    def labels(self, image_id: str) -> Tensor:
        """Scribbles int8 ``(H, W)``: 1 object, 0 background, -1 nothing; all -1 without scribbles.

        Raises `UserError` for a picture of another size or of other levels.
        """
        size = self.dataset.by_id[image_id].size
        if not self.scribbles:
            return torch.full(size, -1, dtype=torch.int8)
        path = self.scribbles[image_id]
        levels = read_indices(path)
        _check_size(levels.shape, size, path, "scribble")
        others = sorted(set(np.unique(levels).tolist()) - set(LABEL_OF_LEVEL))
        if others:
            raise UserError(
                f"wanted the levels 0 (nothing), 1 (object) and 2 (background) in {path}, found "
                f"{listed(list(map(str, others)), 3)} too: save scribbles without smoothed edges, as PNG of 8 bits"
            )
        labels = np.full(levels.shape, -1, np.int8)
        for level, label in LABEL_OF_LEVEL.items():
            labels[levels == level] = label
        return torch.from_numpy(labels)

    def only(self, image_ids: tuple[str, ...]) -> ConcealedPhotos:
        """The photos ``image_ids`` alone."""
        samples = tuple(self.dataset.by_id[image_id] for image_id in image_ids)
        return replace(self, dataset=replace(self.dataset, samples=samples))


def load_concealed(split: ConcealedSplit, name: str) -> ConcealedPhotos:
    """The photos of a split, paired by their names without ending.

    A photo that cannot be read is set aside. Raises `UserError` where a folder is missing, and where a mask or a
    scribble of a photo is: nothing is paired by its place in a list.
    """
    images = images_of(split)
    if images is None:
        raise UserError(f"wanted a folder of {name} photos, found none: set data.{name}.root or data.{name}.images")
    dataset = load_photos(SplitSettings(images=images), name=name)
    names = {PurePosixPath(image_id).with_suffix("").as_posix(): image_id for image_id in dataset.image_ids}
    if len(names) < len(dataset):
        raise UserError(
            f"wanted photos of different names in {images}, found two that differ in their ending: keep one"
        )
    files: dict[str, dict[str, Path]] = {}
    for place, (kind, given, what) in enumerate(
        (("truth", split.truth, "a true mask"), ("scribbles", split.scribbles, "a scribble")), start=1
    ):
        folder = _folder(given, split.root, place)
        if folder is None:
            files[kind] = {}
            continue
        pictures = pictures_by_name(folder)
        require_pairs({key: images for key in names}, pictures, folder, what)
        files[kind] = {image_id: pictures[key] for key, image_id in names.items()}
    return ConcealedPhotos(dataset, files["truth"], files["scribbles"])


def images_of(split: ConcealedSplit) -> Path | None:
    """The folder of a split's photos; None where none is set."""
    return _folder(split.images, split.root, 0)


def _folder(given: Path | None, root: Path | None, place: int) -> Path | None:
    """The folder that is set, or the standard one below ``root``; None where there is neither."""
    if given is not None or root is None:
        return given
    standard = root / FOLDERS[place]
    return standard if place == 0 or standard.is_dir() else None


def check_scribbles(photos: ConcealedPhotos, *, both: bool) -> None:
    """`UserError` for the first photo whose scribbles cannot prompt: none at all, or none on an object.

    ``both``: the background must be scribbled too, as it is in the published sets.
    """
    if not photos.scribbles:
        raise UserError(
            "wanted scribbles of the training photos, found none: set data.train.scribbles, or labels.prompt=boxes "
            "with labels.run or labels.config for boxes made from tags"
        )
    for image_id in photos.image_ids:
        labels, path = photos.labels(image_id), photos.scribbles[image_id]
        if not bool((labels >= 0).any()):
            raise UserError(
                f"wanted a scribble in {path}, found an empty picture: draw on the object, or remove the photo"
            )
        missing = [
            word
            for value, word in ((1, "object (level 1)"), (0, "background (level 2)"))
            if not (labels == value).any()
        ]
        if missing and (both or not missing[0].startswith("background")):
            raise UserError(
                f"wanted scribbles of two colours in {path}, on the object (level 1) and on the background (level 2), "
                f"found none on the {missing[0]}: draw it, or remove the photo"
            )


def _check_size(size: tuple[int, ...], wanted: tuple[int, int], path: Path, what: str) -> None:
    if tuple(size) != tuple(wanted):
        raise UserError(
            f"wanted a {what} of {wanted[1]} x {wanted[0]} pixels, as its photo has, in {path}, found one of {size[1]} "
            f"x {size[0]}: draw it on this photo"
        )
