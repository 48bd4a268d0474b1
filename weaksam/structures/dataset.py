"""Hold a split of photos with their tags and, for the evaluation only, their true objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
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
        rows = [[s.image_id, s.sha256 or file_sha256(s.path), list(s.tags)] for s in self.samples]
        return hashlib.sha256(json.dumps([list(self.classes), rows]).encode()).hexdigest()

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the photos, sorted; none for a split without photos."""
        return tuple(sample.image_id for sample in self.samples)

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """Samples by image id."""
        return {sample.image_id: sample for sample in self.samples}

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
