"""Read class maps from your own heat maps: a folder with a file for every photo and class."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from weaksam.config import UserError, listed
from weaksam.data.heat_maps import SUFFIXES, read_heat_maps
from weaksam.stages.clues.maps import ClassMaps, shrunk_size
from weaksam.stages.clues.settings import ClueSettings
from weaksam.store.files import file_sha256, same_bytes
from weaksam.structures.clue_points import COARSE, CROSS, KINDS
from weaksam.structures.dataset import Dataset, Sample
from weaksam.terminal import say


class FilesSource:
    """Heat maps from ``FOLDER/IMAGE/CLASS.npy`` or ``.png``; of several kinds: ``FOLDER/KIND/IMAGE/CLASS.npy``.

    IMAGE is a photo's id without its ending, CLASS a class's name, KIND ``coarse``, ``fine`` or ``cross``; without
    folders of kinds all maps are coarse. A photo with tags needs a map of every tag; one without gets those it has,
    but never those of a training photo of the same name.
    """

    def __init__(self, settings: ClueSettings, dataset: Dataset, train: Dataset) -> None:
        """``train``: the training photos, whose heat maps come first.

        Raises `UserError` where there is no such folder, or where two photos would share one in it.
        """
        assert settings.heat_maps is not None, "the settings see to that"
        self.settings, self.dataset, self.folder = settings, dataset, settings.heat_maps
        paths = {_stem(sample): sample.path for sample in train}
        self.namesakes = {sample.image_id for sample in dataset if paths.get(_stem(sample), sample.path) != sample.path}
        if not self.folder.is_dir():
            raise UserError(f"wanted a folder of heat maps at {self.folder}, found none: set clues.heat_maps")
        kinds = {name: number for name, number in KINDS.items() if (self.folder / name).is_dir()}
        self.kinds = {number: self.folder / name for name, number in kinds.items()} or {COARSE: self.folder}
        _refuse_shared_folders([sample for sample in dataset if self._has_maps(sample)])

    @property
    def inputs(self) -> dict[str, str]:
        """The bytes of every heat map of the photos."""
        return {"heat maps": self._digest}

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for sample in self.dataset:
            for kind, label, path in self._files(sample):
                digest.update(f"{sample.image_id}\n{kind}\n{label}\n{self._hashes[path]}\n".encode())
        return digest.hexdigest()

    @functools.cached_property
    def _hashes(self) -> dict[Path, str]:
        """SHA-256 of every heat map of the photos: the bytes that are read must be these."""
        paths = {path for sample in self.dataset for _, _, path in self._files(sample)}
        return {path: file_sha256(path) for path in paths}

    def held_out_tag_ap(self) -> Tensor | None:
        """Not known: files tell where a class is, not whether."""
        return None

    def prepare(self, folder: Path, fingerprint: str) -> None:
        """Nothing to do: the maps are there. Photos that get none for their name are counted on the terminal."""
        if self.namesakes:
            say(
                f"clues ({self.dataset.name}): {len(self.namesakes)} of {len(self.dataset)} photos have the name of a "
                f"training photo (first: {min(self.namesakes)}); heat maps of that name are the training photo's",
                error=True,
            )

    def map_classes(self, dataset: Dataset, image_id: str) -> ClassMaps:
        """The maps of one photo, of any size; those of a class share theirs. Raises `UserError` for a missing one."""
        sample = dataset.by_id[image_id]
        files = {(kind, label): path for kind, label, path in self._files(sample)}
        labels = sorted(set(sample.tags) or {label for _, label in files})
        kinds = {}
        for kind in self.kinds if labels else ():
            kinds[kind] = (_stacked([self._read(sample, dataset, files, kind, label) for label in labels]),)
        scores = torch.zeros(len(dataset.classes))
        scores[labels] = 1.0
        frame = shrunk_size(sample.size, self.settings.max_side)
        return ClassMaps(torch.tensor(labels, dtype=torch.int64), scores, kinds, frame, sample.size)

    def _read(
        self, sample: Sample, dataset: Dataset, files: dict[tuple[int, int], Path], kind: int, label: int
    ) -> Tensor:
        path = files.get((kind, label))
        if path is None:
            wanted = self._folder_of(sample, kind) / f"{dataset.classes[label]}.npy"
            raise UserError(
                f"wanted a heat map of {dataset.classes[label]} for {sample.image_id} at {wanted} (or .png), found "
                "none: write it, all zeros where there is nothing to show"
            )
        with same_bytes(path, self._hashes.get(path, "")):
            maps = read_heat_maps(path)
        if len(maps) > 1 and kind != CROSS:
            raise UserError(
                f"wanted one heat map (H, W) in {path}, found {len(maps)}: several maps of a class belong in the "
                f"folder {self.folder / 'cross'}"
            )
        return maps

    def _files(self, sample: Sample) -> Iterator[tuple[int, int, Path]]:
        """(kind, label, file) of every heat map of a photo; `UserError` for one of no class or a second one."""
        if sample.image_id in self.namesakes:
            return
        label_of = {name: label for label, name in enumerate(self.dataset.classes)}
        for kind in self.kinds:
            folder = self._folder_of(sample, kind)
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            for path in (path for path in paths if path.suffix.lower() in SUFFIXES):
                if path.stem not in label_of:
                    raise UserError(
                        f"wanted heat maps named after the classes ({listed(label_of)}), found {path}: rename it"
                    )
                yield kind, label_of[path.stem], path
            _refuse_second_maps([path for path in paths if path.suffix.lower() in SUFFIXES])

    def _has_maps(self, sample: Sample) -> bool:
        """Whether a photo has heat maps of its own, or needs them."""
        is_there = any(self._folder_of(sample, kind).is_dir() for kind in self.kinds)
        return bool(sample.tags) or (is_there and sample.image_id not in self.namesakes)

    def _folder_of(self, sample: Sample, kind: int) -> Path:
        return self.kinds[kind] / _stem(sample)


def _stem(sample: Sample) -> PurePosixPath:
    """The id of a photo without its ending, which names its heat maps."""
    return PurePosixPath(sample.image_id).with_suffix("")


def _refuse_shared_folders(samples: list[Sample]) -> None:
    """`UserError` where two photos differ in their ending alone, so that their heat maps would lie in one folder."""
    owner: dict[PurePosixPath, str] = {}
    for sample in samples:
        other = owner.setdefault(_stem(sample), sample.image_id)
        if other != sample.image_id:
            raise UserError(
                f"wanted a folder of heat maps for each photo, found that {other} and {sample.image_id} would share "
                "one: rename one of the two photos"
            )


def _refuse_second_maps(paths: list[Path]) -> None:
    """`UserError` where two heat maps of one photo and kind are of one class."""
    owner: dict[str, Path] = {}
    for path in paths:
        other = owner.setdefault(path.stem, path)
        if other != path:
            raise UserError(f"wanted one heat map for each class, found {other} and {path.name}: remove one of the two")


def _stacked(maps: list[Tensor]) -> Tensor:
    """Maps ``(N, h, w)`` of L classes as ``(N, L, h, w)``; `UserError` where they differ in number or size."""
    shapes = {tuple(class_maps.shape) for class_maps in maps}
    if len(shapes) > 1:
        raise UserError(
            f"wanted heat maps of one size and number for all classes of a photo, found {listed(map(str, shapes))}: "
            "resize them"
        )
    return torch.stack(maps, dim=1)
