"""Define the interface of all sources of clues: class maps of a photo, whatever makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from weaksam.stages.clues.maps import ClassMaps
from weaksam.structures.dataset import Dataset


class ClueSource(Protocol):
    """Anything that maps where the classes of a photo are: a network trained on tags, or a folder of heat maps."""

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of all that decides the maps beside the settings: data it learns from, weights, files."""

    def prepare(self, folder: Path, fingerprint: str) -> None:
        """Load what `map_classes` needs, or train it first.

        ``folder`` and ``fingerprint``: those of the training photos' clues, where what was learnt is kept for the clues
        of other photos.
        """

    def held_out_tag_ap(self) -> Tensor | None:
        """AP of each class's tag ``(C,)`` in [0, 1] on training photos that a classifier did not learn from, if known.

        None where the source has none; NaN for a class without a photo.
        """

    def map_classes(self, dataset: Dataset, image_id: str) -> ClassMaps:
        """The maps of one photo: of its tags, or without tags of the classes it scores for. Raises `UserError`."""


def classes_to_map(scores: Tensor, tags: tuple[int, ...], min_score: float) -> Tensor:
    """Labels ``(L,)`` whose maps are wanted: the tags, or without tags the classes scoring at least ``min_score``."""
    if tags:
        return torch.tensor(tags, dtype=torch.int64)
    return (scores >= min_score).nonzero()[:, 0]
