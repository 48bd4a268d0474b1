"""Hold the objects of millions of images in flat columns, and give those of one image when it is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from weaksam.data.annotations import Annotations, ImageTruth, ObjectRows, tag_labels
from weaksam.data.image_entries import ImageEntries
from weaksam.data.key_index import KeyIndex
from weaksam.structures.masks import Rle

_DIFFICULT, _CROWD = 1, 2


class ObjectColumns:
    """Objects of any images in the order in which they were added, none at first."""

    def __init__(self) -> None:
        self.images, self.labels = array("i"), array("i")
        self.boxes = array("d")  # x1, y1, x2, y2 of each
        self.flags = array("B")
        self.scores: dict[int, float] = {}  # by row, as truths seldom have them
        self.masks: dict[int, Rle] = {}
        self._image = 0

    def of_image(self, place: int) -> ObjectColumns:
        """The same columns, to which objects of the image at this place are added next."""
        self._image = place
        return self

    def add(
        self,
        box: Sequence[float],
        label: int,
        *,
        mask: Rle | None = None,
        score: float | None = None,
        difficult: bool = False,
        crowd: bool = False,
    ) -> None:
        """Append one object, see `ObjectRows.add`."""
        x1, y1, x2, y2 = box
        if score is not None:
            self.scores[len(self.labels)] = score
        if mask is not None:
            self.masks[len(self.labels)] = mask
        self.images.append(self._image)
        self.labels.append(label)
        self.boxes.extend((x1, y1, max(x1, x2), max(y1, y2)))
        self.flags.append(_DIFFICULT * difficult + _CROWD * crowd)

    def rows(self, numbers: np.ndarray) -> ObjectRows:
        """The objects of these numbers."""
        rows = ObjectRows.none()
        for row in numbers.tolist():
            flags, box = self.flags[row], self.boxes[4 * row : 4 * row + 4]
            rows.add(
                box,
                self.labels[row],
                mask=self.masks.get(row),
                score=self.scores.get(row),
                difficult=bool(flags & _DIFFICULT),
                crowd=bool(flags & _CROWD),
            )
        return rows

    def __len__(self) -> int:
        return len(self.labels)


class TruthTable(Mapping[str, ImageTruth]):
    """The truth of each image of a file by its name, made when it is asked for; see `ImageTruth`.

    ``sizes``: (H, W) by place of images whose size only their masks tell.
    """

    def __init__(self, entries: ImageEntries, objects: ObjectColumns, sizes: Mapping[int, tuple[int, int]]) -> None:
        self._entries, self._objects, self._sizes = entries, objects, sizes
        images = np.frombuffer(objects.images, dtype=np.int32) if len(objects) else np.zeros(0, dtype=np.int32)
        in_order = bool((images[1:] >= images[:-1]).all())
        self._order = None if in_order else np.argsort(images, kind="stable").astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(images, minlength=len(entries)))])

    def labels(self) -> set[int]:
        """The labels of all objects."""
        return set(np.unique(self._labels).tolist())

    def tag_labels(self, name: str) -> tuple[int, ...]:
        """As `weaksam.data.annotations.tag_labels` of the image of this name."""
        rows, objects = self._rows(self._place(name)).tolist(), self._objects
        return tuple(sorted({objects.labels[row] for row in rows if not objects.flags[row] & _DIFFICULT}))

    def counts(self) -> dict[str, int]:
        """How many objects are of each special kind, and how many images are empty."""
        flags = np.frombuffer(self._objects.flags, dtype=np.uint8) if len(self._objects) else np.zeros(0, np.uint8)
        corners = np.frombuffer(self._objects.boxes).reshape(-1, 4) if len(self._objects) else np.zeros((0, 4))
        sides = corners[:, 2:].astype(np.float32) - corners[:, :2].astype(np.float32)
        return {
            "objects": len(flags),
            "crowd": int(((flags & _CROWD) > 0).sum()),
            "difficult": int(((flags & _DIFFICULT) > 0).sum()),
            "without area": int((sides.prod(1) == 0).sum()),
            "empty": int((np.diff(self._starts) == 0).sum()),
        }

    @property
    def _labels(self) -> np.ndarray:
        return np.frombuffer(self._objects.labels, dtype=np.int32) if len(self._objects) else np.zeros(0, np.int32)

    @cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(self._entries.names, self._entries.names.__getitem__)

    def _place(self, name: str) -> int:
        place = self._index.find(name)
        if place is None:
            raise KeyError(name)
        return place

    def _rows(self, place: int) -> np.ndarray:
        """The numbers of the objects of one image, in the file's order."""
        first, last = self._starts[place], self._starts[place + 1]
        return np.arange(first, last) if self._order is None else self._order[first:last]

    def __getitem__(self, name: str) -> ImageTruth:
        place = self._place(name)
        rows, size, file_id = self._objects.rows(self._rows(place)), self._size(place), self._entries.file_id(place)
        # Without a size an object's box cannot stand for its mask
        drawable = bool(self._objects.masks) and (size is not None or all(mask is not None for mask in rows.masks))
        number, text = (file_id, "") if isinstance(file_id, int) else (None, file_id)
        return ImageTruth(rows.instances(with_masks=drawable, size=size or (0, 0)), number, size, text)

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
