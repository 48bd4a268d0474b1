"""Hold the objects of millions of images in flat columns, and give those of one image when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from weaksam.data.annotations import Annotations, ImageTruth, tag_labels
from weaksam.data.image_entries import ImageEntries
from weaksam.data.key_index import KeyIndex
from weaksam.data.object_columns import CROWD, DIFFICULT, ImageRows, ObjectColumns
from weaksam.data.plain_columns import values_of


class TruthTable(Mapping[str, ImageTruth]):
    """The truth of each image of a file by its name, made when it is asked for; see `ImageTruth`.

    ``sizes``: (H, W) by place of images whose size only their masks tell.
    """

    def __init__(self, entries: ImageEntries, objects: ObjectColumns, sizes: Mapping[int, tuple[int, int]]) -> None:
        self._entries, self._objects, self._sizes = entries, objects, sizes
        self._rows_of = ImageRows(objects.images, len(entries))

    def labels(self) -> set[int]:
        """The labels of all objects."""
        return set(np.unique(values_of(self._objects.labels)).tolist())

    def tag_labels(self, name: str) -> tuple[int, ...]:
        """As `weaksam.data.annotations.tag_labels` of the image of this name."""
        rows, objects = self._rows_of.of(self._place(name)).tolist(), self._objects
        return tuple(sorted({objects.labels[row] for row in rows if not objects.flags[row] & DIFFICULT}))

    def counts(self) -> dict[str, int]:
        """How many objects are of each special kind, and how many images are empty."""
        flags, corners = values_of(self._objects.flags), values_of(self._objects.boxes).reshape(-1, 4)
        flat = [corners[:, side + 2].astype(np.float32) == corners[:, side].astype(np.float32) for side in (0, 1)]
        return {
            "objects": len(flags),
            "crowd": int(((flags & CROWD) > 0).sum()),
            "difficult": int(((flags & DIFFICULT) > 0).sum()),
            "without area": int((flat[0] | flat[1]).sum()),
            "empty": self._rows_of.num_empty,
        }

    @cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(self._entries.names, self._entries.names.__getitem__)

    def _place(self, name: str) -> int:
        place = self._index.find(name)
        if place is None:
            raise KeyError(name)
        return place

    def __getitem__(self, name: str) -> ImageTruth:
        place = self._place(name)
        rows, size, file_id = self._rows_of.of(place), self._size(place), self._entries.file_id(place)
        masks = self._objects.masks
        # Without a size an object's box cannot stand for its mask
        drawable = bool(masks) and (size is not None or all(row in masks for row in rows.tolist()))
        number, text = (file_id, "") if isinstance(file_id, int) else (None, file_id)
        objects = self._objects.instances(rows, with_masks=drawable, size=size or (0, 0))
        return ImageTruth(objects, number, size, text)

    def _size(self, place: int) -> tuple[int, int] | None:
        return self._entries.size(place) or self._sizes.get(place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries.names)

    def __len__(self) -> int:
        return len(self._entries)


def used_labels(annotations: Annotations) -> set[int]:
    """The labels of all objects; no objects give none."""
    if isinstance(annotations.images, TruthTable):
        return annotations.images.labels()
    return {label for image in annotations.images.values() for label in image.instances.labels.tolist()}


def class_names_of(annotations: Annotations, name: str) -> tuple[str, ...]:
    """The classes in the image of this name as a tagger would say them, see `tag_labels`."""
    images = annotations.images
    labels = images.tag_labels(name) if isinstance(images, TruthTable) else tag_labels(images[name].instances)
    return tuple(annotations.classes[label] for label in labels)
