"""Load panoramas and pinhole photos with their class maps, at the size at which networks see them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from weaksam.config import UserError, listed
from weaksam.data.dataset import SplitSettings, load_photos
from weaksam.data.sample_photos import read_photo
from weaksam.evaluation.class_maps import UNLABELLED
from weaksam.models.semantic.network import STRIDE
from weaksam.recipes.panorama.layouts import LAYOUTS, read_class_map, stanford_names
from weaksam.recipes.panorama.settings import PanoramaData, SemanticSplit
from weaksam.store.files import file_sha256
from weaksam.structures.dataset import Dataset

_ROUNDING = 0.02
"""Share by which a panorama's sides may differ from what its degrees say."""


@dataclass(frozen=True)
class SemanticPhotos:
    """The photos of a split, and the paths of their class maps by image id, empty where there are none.

    ``height``: rows to which a photo is resized, its width with it; None: as it is. ``names``: see `read_class_map`.
    """

    dataset: Dataset
    labels: Mapping[str, Path]
    classes: tuple[str, ...]
    height: int | None
    names: np.ndarray | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.dataset)

    def size(self, row: int) -> tuple[int, int]:
        """(H, W) at which networks see photo ``row``."""
        height, width = self.dataset.samples[row].size
        return (height, width) if self.height is None else (self.height, max(1, round(width * self.height / height)))

    def pixels(self, row: int) -> Tensor:
        """Photo ``row``, uint8 ``(3, H, W)``."""
        image = torch.from_numpy(np.ascontiguousarray(read_photo(self.dataset.samples[row]))).permute(2, 0, 1)
        size = self.size(row)
        return image if tuple(image.shape[1:]) == size else TF.resize(image, list(size), antialias=True)

    def true_map(self, row: int) -> np.ndarray:
        """The class map of photo ``row``, int64 of the photo's own size; raises `UserError` where it does not fit."""
        sample = self.dataset.samples[row]
        path = self.labels[sample.image_id]
        truth = read_class_map(path, self.names)
        if truth.shape != sample.size:
            raise UserError(
                f"wanted a class map of {sample.size[1]} x {sample.size[0]} pixels for {sample.image_id}, found "
                f"{truth.shape[1]} x {truth.shape[0]} in {path}: give the map of this photo"
            )
        others = truth[(truth >= len(self.classes)) & (truth != UNLABELLED)]
        if len(others):
            raise UserError(
                f"wanted the classes 0 to {len(self.classes) - 1} ({listed(self.classes, 4)}) and {UNLABELLED} for "
                f"none in {path}, found {int(others[0])}: set data.classes to all classes of the labels"
            )
        return truth

    def labels_at(self, row: int) -> Tensor:
        """The class map of photo ``row``, int64 ``(H, W)`` at the size at which networks see it."""
        truth = torch.from_numpy(self.true_map(row))[None]
        size = self.size(row)
        if tuple(truth.shape[1:]) == size:
            return truth[0]
        return TF.resize(truth, list(size), interpolation=TF.InterpolationMode.NEAREST_EXACT)[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over photos, class maps and size."""
        digest = hashlib.sha256(f"{self.dataset.fingerprint}{self.height}{self.classes}".encode())
        for image_id in sorted(self.labels):
            digest.update(f"{image_id}{file_sha256(self.labels[image_id])}".encode())
        return digest.hexdigest()


def load_panoramas(data: PanoramaData, name: str, *, labelled: bool) -> SemanticPhotos:
    """The panoramas of the split ``name`` (train or test); with class maps where they are ``labelled``.

    Raises `UserError` for a panorama whose sides are not those of ``data.vertical_degrees``, and as `load_semantic`.
    """
    photos = load_semantic(data, name, labelled=labelled, height=data.height)
    for row, sample in enumerate(photos.dataset):
        check_proportions(sample.size, data.vertical_degrees, sample.image_id)
        if any(side % STRIDE for side in photos.size(row)):
            raise UserError(
                f"wanted panoramas whose sides are multiples of {STRIDE} pixels, found {sample.image_id} of "
                f"{photos.size(row)[1]} x {photos.size(row)[0]}: set data.height to a multiple of {STRIDE} that makes "
                "its width one too"
            )
    return photos


def check_proportions(size: tuple[int, int], vertical_degrees: float, name: str, *, trained: bool = False) -> None:
    """`UserError` where a photo of ``size`` (H, W) is no panorama that is ``vertical_degrees`` high.

    ``trained``: a student was trained on such panoramas, so that no setting can help.
    """
    height, width = size
    wanted = 360 / vertical_degrees
    if abs(width / height - wanted) > _ROUNDING * wanted:
        degrees = 360 * height / width
        remedy = f"set data.vertical_degrees to what its height covers ({degrees:.4g} if it goes all around)"
        if trained:
            remedy = "give panoramas as the student was trained on"
        raise UserError(
            f"wanted a panorama of 360 x {vertical_degrees:g} degrees, {wanted:.4g}:1, found {name} of {width} x "
            f"{height} pixels: {remedy}"
        )


def load_semantic(data: PanoramaData, name: str, *, labelled: bool, height: int | None = None) -> SemanticPhotos:
    """The photos of the split ``name``; with class maps where they are ``labelled``.

    Raises `UserError` for folders that are missing, photos without a class map, and classes that nobody named.
    """
    split: SemanticSplit | None = getattr(data, name)
    layout = LAYOUTS[data.layout]
    classes = data.classes or layout.classes
    if not classes:
        raise UserError("wanted the names of the classes, found none: set data.classes=[road,sky,...]")
    images = None if split is None else split.images
    dataset = load_photos(SplitSettings(images=images), name=name)
    assert split is not None, "load_photos refuses a split without images"
    samples = tuple(
        sample
        for sample in dataset
        if re.fullmatch(layout.photo, sample.image_id)
        and (not split.folders or sample.image_id.startswith(tuple(f"{folder}/" for folder in split.folders)))
    )
    if not samples:
        raise UserError(
            f"wanted photos of the layout {data.layout} in {images}, found {len(dataset)} others: set data.layout or "
            f"data.{name}.folders to fit"
        )
    dataset = Dataset(dataset.name, dataset.classes, dataset.category_ids, samples, dataset.bad, dataset.notes)
    labels: dict[str, Path] = {}
    if labelled:
        if split.labels is None:
            raise UserError(f"wanted class maps of the {name} photos, found none: set data.{name}.labels")
        labels = {sample.image_id: split.labels / layout.label_of(sample.image_id) for sample in samples}
        missing = [path for path in labels.values() if not path.is_file()]
        if missing:
            raise UserError(
                f"wanted a class map for each of the {len(samples)} {name} photos, found {len(missing)} missing (such "
                f"as {missing[0]}): put them there, or set data.layout and data.{name}.labels to fit"
            )
    names = None
    if data.layout == "stanford2d3d" and labelled:
        names = stanford_names(data.label_names or Path("semantic_labels.json"))
    return SemanticPhotos(dataset, labels, tuple(classes), height, names)
