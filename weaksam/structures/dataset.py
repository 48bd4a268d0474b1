"""Hold a split of photos with their tags and, for the evaluation only, their true objects."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from weaksam.store.files import file_sha256
from weaksam.structures.instances import Instances
from weaksam.structures.set_aside import SetAside


@dataclass(frozen=True)
class Sample:
    """One photo of a split.

    ``image_id``: its file name relative to the images folder. ``size``: (H, W) in pixels, upright. ``tags``: the sorted
    labels of the classes in it, none for an untagged photo. ``truth``: its true objects, None where the split has none
    for it. ``number``: its id in COCO files. ``sha256``: the hash of its bytes, empty where it was not computed.
    ``text_id``: its id in COCO files whose ids are texts, else empty. ``num_bytes``: of its file, 0 where unknown.
    """

    image_id: str
    path: Path
    size: tuple[int, int]
    tags: tuple[int, ...]
    truth: Instances | None
    number: int
    sha256: str = ""
    text_id: str = ""
    num_bytes: int = 0

    @property
    def file_id(self) -> int | str:
        """Its id in COCO files."""
        return self.text_id or self.number


_id_of = attrgetter("image_id")


class _SamplesById(Mapping[str, Sample]):
    """Samples by image id, found by bisection: a dictionary of a million photos would take a hundred megabytes."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._sorted = sorted(samples, key=_id_of)

    def __getitem__(self, image_id: str) -> Sample:
        place = bisect_left(self._sorted, image_id, key=_id_of)
        if place == len(self._sorted) or self._sorted[place].image_id != image_id:
            raise KeyError(image_id)
        return self._sorted[place]

    def __iter__(self) -> Iterator[str]:
        return map(_id_of, self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)


@dataclass(frozen=True)
class Dataset:
    """The readable photos of one split in the order of their ids.

    ``classes``: their names by label, empty for photos without tags. ``category_ids``: a COCO file's number of each
    class. ``bad``: image id and reason of what was set aside, sorted. ``notes``: how its files were read.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    samples: tuple[Sample, ...]
    bad: SetAside = field(default_factory=SetAside)
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over classes and every photo's id, bytes and tags; the truth has no part in it."""
        digest = hashlib.sha256(f"[{json.dumps(list(self.classes))}, [".encode())  # of one JSON list, row by row
        for number, sample in enumerate(self.samples):
            row = [sample.image_id, sample.sha256 or file_sha256(sample.path), list(sample.tags)]
            digest.update(f"{', ' if number else ''}{json.dumps(row)}".encode())
        digest.update(b"]]")
        return digest.hexdigest()

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the photos, sorted; none for a split without photos."""
        return tuple(sample.image_id for sample in self.samples)

    @cached_property
    def by_id(self) -> Mapping[str, Sample]:
        """Samples by image id."""
        return _SamplesById(self.samples)

    @property
    def truths(self) -> dict[str, Instances]:
        """True objects by image id, of the photos that have them; empty where no photo does."""
        return {sample.image_id: sample.truth for sample in self.samples if sample.truth is not None}

    def tag_matrix(self) -> Tensor:
        """Multi-hot tags, float32 ``(N, C)``, in the order of the samples; zeros for an untagged photo."""
        matrix = torch.zeros(len(self), len(self.classes))
        for row, sample in enumerate(self):
            matrix[row, list(sample.tags)] = 1.0
        return matrix

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)
