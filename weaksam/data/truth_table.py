"""Hold the objects of millions of images in flat columns, and give those of one image when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from weaksam.data.annotations import Annotations, ImageTruth, tag_labels
from weaksam.data.image_entries import ImageEntries
from weaksam.data.key_index import KeyIndex
from weaksam.data.object_columns import CROWD, DIFFICULT, ImageRows, ObjectColumns
from weaksam.data.plain_columns import values_of
from weaksam.data.sizes import Size
from weaksam.data.truth_photos import TOLERANCE
from weaksam.structures.instances import Instances


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
        rows, size = self._rows_of.of(place), self._size(place)
        masks = self._objects.masks
        # Without a size an object's box cannot stand for its mask
        drawable = bool(masks) and (size is not None or all(row in masks for row in rows.tolist()))
        return self._truth(place, self._objects.instances(rows, with_masks=drawable, size=size or (0, 0)), size)

    def fitting(self, names: Sequence[str], photos: Sequence[Size]) -> dict[str, ImageTruth]:
        """The truth of those of the images ``names`` that fits its photo of this size (H, W) as it is, made at once.

        That is what `fit_to_photo` would neither change nor say anything of: an image of the photo's size whose boxes
        lie in it, no two objects alike. None of them is there where objects have masks or scores.
        """
        if self._objects.masks or self._objects.scores or not names:
            return {}
        places, shown = np.array([self._place(name) for name in names]), np.array(photos)[:, ::-1]
        stated = self._entries.sides(places)  # (N, 2) as shown, 0 where none is stated
        rows, counts = self._rows_of.of_all(places)
        objects = self._objects.instances(rows, with_masks=False, size=(0, 0))
        image = np.repeat(np.arange(len(names)), counts)  # (M,)
        boxes = objects.boxes.numpy()
        limits = np.tile(shown, 2).astype(np.float32)[image] + np.float32(TOLERANCE)
        outside = ((boxes < -TOLERANCE) | (boxes > limits)).any(axis=1)
        fits = (stated == shown).all(axis=1) | (stated == 0).all(axis=1)
        fits[image[outside | _repeats(image, objects)]] = False
        pieces = objects.split(counts.tolist())
        return {
            name: self._truth(place, of_image, (height, width))
            for name, place, of_image, (width, height), fit in zip(
                names, places.tolist(), pieces, shown.tolist(), fits.tolist(), strict=True
            )
            if fit
        }

    def _truth(self, place: int, objects: Instances, size: Size | None) -> ImageTruth:
        file_id = self._entries.file_id(place)
        number, text = (file_id, "") if isinstance(file_id, int) else (None, file_id)
        return ImageTruth(objects, number, size, text)

    def _size(self, place: int) -> tuple[int, int] | None:
        return self._entries.size(place) or self._sizes.get(place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries.names)

    def __len__(self) -> int:
        return len(self._entries)


def _repeats(image: np.ndarray, objects: Instances) -> np.ndarray:
    """Which of ``M`` objects of images ``(M,)`` have image, class and box of another one, bool ``(M,)``."""
    columns = np.column_stack([image, objects.labels.numpy(), objects.boxes.numpy().astype(np.float64)])
    order = np.lexsort(columns.T)
    same, repeats = (columns[order[1:]] == columns[order[:-1]]).all(axis=1), np.zeros(len(objects), dtype=bool)
    repeats[order[1:][same]] = True
    return repeats


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
