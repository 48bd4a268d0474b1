"""Hold the true instances of a split, which the evaluation alone reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class Truth:
    """The true instances of one split by image id, with its tags and sizes; photos without truth are left out.

    ``has_masks``: whether every true instance has a mask, so that masks can be measured.
    """

    instances: dict[str, Instances]
    tags: dict[str, tuple[int, ...]]
    sizes: dict[str, tuple[int, int]]
    num_classes: int

    @property
    def has_masks(self) -> bool:
        """Whether masks can be measured."""
        with_objects = [objects for objects in self.instances.values() if len(objects)]
        return bool(with_objects) and all(objects.masks is not None for objects in with_objects)

    @classmethod
    def of(cls, dataset: Dataset | None) -> Truth | None:
        """The truth of ``dataset``; None where no photo has one."""
        if dataset is None or not dataset.truths:
            return None
        known = [dataset.by_id[image_id] for image_id in dataset.truths]
        tags = {sample.image_id: sample.tags for sample in known}
        sizes = {sample.image_id: sample.size for sample in known}
        return cls(dataset.truths, tags, sizes, len(dataset.classes))

    def only(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values`` of the photos that have a truth."""
        return {image_id: value for image_id, value in values.items() if image_id in self.instances}
