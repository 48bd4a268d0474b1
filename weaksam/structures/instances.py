"""Hold the objects of one image, true or predicted, as one immutable value."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from weaksam.structures.masks import Rle

_WEIGHTS = ("mask_weights", "class_weights", "box_weights")
_OPTIONAL = ("scores", "masks", "difficult", "crowd", *_WEIGHTS)
"""Fields of `Instances` that may be None."""


@dataclass(frozen=True, eq=False)
class Instances:
    """``N`` objects of one image; every field that is given has ``N`` rows.

    boxes: float32 (N, 4), half-open xyxy in pixels of the upright image; may have no area, never inverted.
    labels: int64 (N,), 0-based class index.
    scores: float32 (N,) in [0, 1], or None for ground truth.
    masks: one RLE each, or None.
    difficult, crowd: bool (N,), or None where the source does not say; a crowd is a region of objects that nobody
    outlined one by one, and is ignored in training.
    mask_weights: float32 (N,) in [0, 1], how far each mask counts in a training (0: not at all), or None: all fully.
    class_weights, box_weights: float32 (N,) of at least 0, how far the class and the extent of each count in a training
    (0: not at all), or None: all by 1.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    masks: tuple[Rle, ...] | None = None
    difficult: Tensor | None = None
    crowd: Tensor | None = None
    mask_weights: Tensor | None = None
    class_weights: Tensor | None = None
    box_weights: Tensor | None = None

    def __post_init__(self) -> None:
        """Raise ``ValueError`` where a field has another type, shape or length than the class says."""
        _check_boxes(self.boxes)
        count = len(self.boxes)
        _check_vector("labels", self.labels, torch.int64, count)
        if self.scores is not None:
            _check_vector("scores", self.scores, torch.float32, count)
        for name in _WEIGHTS:
            if getattr(self, name) is not None:
                _check_vector(name, getattr(self, name), torch.float32, count)
        if self.masks is not None:
            if not isinstance(self.masks, tuple):
                raise ValueError(f"Instances.masks must be a tuple of RLEs, found {type(self.masks).__name__}")
            if len(self.masks) != count:
                raise ValueError(f"Instances.masks must hold {count} RLEs, one per box, found {len(self.masks)}")
        for name in ("difficult", "crowd"):
            flags = getattr(self, name)
            if flags is not None:
                _check_vector(name, flags, torch.bool, count)

    @classmethod
    def empty(cls, *, scored: bool = False, masked: bool = False) -> Instances:
        """No objects, N = 0: without ``scores`` and ``masks`` like true boxes, or with the columns of detections."""
        scores, masks = torch.zeros(0) if scored else None, () if masked else None
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), scores, masks)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Instances:
        """The rows named by an int64 index ``(K,)`` (any order, repeats allowed) or kept by a bool mask ``(N,)``."""
        rows = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        if index.dtype == torch.bool and len(index) != len(self):
            raise ValueError(f"a bool index must have {len(self)} rows, one per object, found {len(index)}")
        taken: dict[str, Any] = {"boxes": self.boxes[rows], "labels": self.labels[rows]}
        for name in _OPTIONAL:
            value = getattr(self, name)
            if isinstance(value, tuple):
                taken[name] = tuple(value[row] for row in rows.tolist())
            elif value is not None:
                taken[name] = value[rows]
        return Instances(**taken)

    @staticmethod
    def cat(parts: Sequence[Instances]) -> Instances:
        """All objects of ``parts``, in order; nothing gives the empty value.

        A missing ``difficult`` or ``crowd`` counts as False beside a given one, missing weights as 1; ``scores`` and
        ``masks`` must be in all non-empty parts or in none. Where all parts are empty, the result has every field that
        one of them has.
        """
        if not parts:
            return Instances.empty()
        filled = [part for part in parts if len(part)]
        if not filled:
            given = [{name: value for name, value in vars(part).items() if value is not None} for part in parts]
            return Instances(**dict(ChainMap(*given)))
        joined: dict[str, Any] = {
            "boxes": torch.cat([part.boxes for part in filled]),
            "labels": torch.cat([part.labels for part in filled]),
        }
        for name in _OPTIONAL:
            joined[name] = _cat_optional(name, filled)
        return Instances(**joined)

    def split(self, counts: Sequence[int]) -> list[Instances]:
        """These objects in pieces of ``counts`` objects, which are all of them, in order; no counts give no piece.

        Each piece is what `Instances` makes of its rows, but that nothing is checked again. Pieces share their memory.
        """
        assert sum(counts) == len(self), "all objects are given away"
        columns: dict[str, Any] = {name: [None] * len(counts) for name in vars(self)}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                columns[name] = value.split(list(counts))
            elif value is not None:
                ends = list(accumulate(counts, initial=0))
                columns[name] = [value[start:end] for start, end in pairwise(ends)]
        pieces = []
        for number in range(len(counts)):
            piece = object.__new__(Instances)
            vars(piece).update((name, column[number]) for name, column in columns.items())
            pieces.append(piece)
        return pieces

    def without_crowd(self) -> Instances:
        """The objects that are not marked ``crowd``, in order."""
        return self if self.crowd is None else self[~self.crowd]

    def replace(self, **changes: Any) -> Instances:
        """The same objects with the named fields changed."""
        return replace(self, **changes)

    def to(self, device: torch.device | str) -> Instances:
        """The same objects with their tensors on ``device``."""
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def ignored(objects: Instances) -> Tensor:
    """Bool ``(N,)``: which objects are to be ignored, being difficult or a crowd; all False where nothing says so."""
    marked = torch.zeros(len(objects), dtype=torch.bool)
    for marks in (objects.difficult, objects.crowd):
        marked = marked if marks is None else marked | marks
    return marked


def _check_boxes(boxes: Tensor) -> None:
    if boxes.dtype != torch.float32 or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"Instances.boxes must be float32 (N, 4), found {boxes.dtype} {tuple(boxes.shape)}")
    if not bool(torch.isfinite(boxes).all()):
        raise ValueError("Instances.boxes must be finite, found nan or inf: drop such boxes before")
    if bool((boxes[:, 2:] < boxes[:, :2]).any()):
        raise ValueError("Instances.boxes must have x1 <= x2 and y1 <= y2, found an inverted box: order its corners")


def _check_vector(name: str, value: Tensor, dtype: torch.dtype, count: int) -> None:
    if value.dtype != dtype or value.shape != (count,):
        raise ValueError(f"Instances.{name} must be {dtype} ({count},), found {value.dtype} {tuple(value.shape)}")


def _cat_optional(name: str, parts: Sequence[Instances]) -> Tensor | tuple[Rle, ...] | None:
    """One optional field of all ``parts``, in order, see `Instances.cat`."""
    values = [getattr(part, name) for part in parts]
    if all(value is None for value in values):
        return None
    if name in ("difficult", "crowd"):
        pairs = zip(values, parts, strict=True)
        return torch.cat([torch.zeros(len(part), dtype=torch.bool) if v is None else v for v, part in pairs])
    if name in _WEIGHTS:
        return torch.cat([torch.ones(len(part)) if v is None else v for v, part in zip(values, parts, strict=True)])
    if any(value is None for value in values):
        raise ValueError(f"Instances.cat needs {name} in all parts or in none, found them in only some")
    if name == "masks":
        return tuple(rle for value in values for rle in value)
    return torch.cat(values)
