"""What every annotation reader returns, and how its file names are matched to photos on disk."""

import difflib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from weaksam.config import UserError
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, rle_from_polygons


@dataclass(frozen=True)
class ImageTruth:
    """The objects of one image as a file states them; ``number`` and ``size`` (H, W) are None where it does not."""

    instances: Instances
    number: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Annotations:
    """One annotation file or folder: class names in the file's order, their ids there, and objects by file name."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: Mapping[str, ImageTruth]


@dataclass
class ObjectRows:
    """The objects of one image while they are read, one list entry each."""

    boxes: list[Sequence[float]]
    labels: list[int]
    masks: list[Rle | None]
    scores: list[float | None]
    difficult: list[bool]
    crowd: list[bool]

    @classmethod
    def none(cls) -> "ObjectRows":
        """No objects yet."""
        return cls([], [], [], [], [], [])

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
        """Append one object; ``box`` is half-open xyxy, and inverted corners make it empty."""
        x1, y1, x2, y2 = box
        self.boxes.append((x1, y1, max(x1, x2), max(y1, y2)))
        self.labels.append(label)
        self.masks.append(mask)
        self.scores.append(score)
        self.difficult.append(difficult)
        self.crowd.append(crowd)

    def instances(self, *, with_masks: bool, size: tuple[int, int]) -> Instances:
        """The finished value; an object without a mask among others with one gets its box as mask."""
        scored = bool(self.scores) and all(score is not None for score in self.scores)
        return Instances(
            boxes=torch.tensor(self.boxes, dtype=torch.float64).reshape(-1, 4).float(),
            labels=torch.tensor(self.labels, dtype=torch.int64),
            scores=torch.tensor(self.scores, dtype=torch.float32) if scored else None,
            masks=tuple(mask or rle_from_box(box, size) for mask, box in zip(self.masks, self.boxes, strict=True))
            if with_masks
            else None,
            difficult=torch.tensor(self.difficult, dtype=torch.bool),
            crowd=torch.tensor(self.crowd, dtype=torch.bool),
        )


def rle_from_box(box: Sequence[float], size: tuple[int, int]) -> Rle:
    """The filled rectangle of a half-open xyxy ``box`` in an image of ``size`` (H, W)."""
    x1, y1, x2, y2 = box
    return rle_from_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]], size)


def tag_labels(objects: Instances) -> tuple[int, ...]:
    """Sorted labels present in an image, as a tagger would say: objects marked difficult do not count."""
    labels = objects.labels if objects.difficult is None else objects.labels[~objects.difficult]
    return tuple(sorted(set(labels.tolist())))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'apple'?)"`` where a known name is near, else nothing."""
    known = list(known)
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Names joined by commas, the rest counted: ``a, b and 3 more``."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def read_json(path: Path, wanted: str) -> Any:
    """The content of a JSON file; raises `UserError` naming ``wanted`` where it is missing, empty or not JSON."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"wanted {wanted} at {path}, found nothing there: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"wanted {wanted} at {path}, found a file that cannot be read ({error}): check it") from None
    if not text.strip():
        raise UserError(f"wanted {wanted} at {path}, found an empty file: write it again or name another")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"wanted {wanted} at {path}, found text that is not JSON ({error}): mend it") from None


class NameMatcher:
    """Finds the photo that a name in a list means: with or without its ending, with or without leading folders."""

    def __init__(self, image_ids: Sequence[str]):
        self._exact = frozenset(image_ids)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for image_id in image_ids:
            path = PurePosixPath(image_id)
            for key in {path.name.lower(), path.stem.lower()}:
                self._by_name[key].append(image_id)

    def find(self, name: str, source: str) -> str | None:
        """The image id meant by ``name``, or None where no photo fits.

        Folders must agree as far as both sides give them. Raises `UserError`, naming ``source``, where two photos fit.
        """
        name = name.strip().replace("\\", "/").removeprefix("./")
        if name in self._exact:
            return name
        wanted = PurePosixPath(name)
        fits = [
            image_id
            for image_id in self._by_name.get(wanted.name.lower(), [])
            if _folders_agree(wanted.parts[:-1], PurePosixPath(image_id).parts[:-1])
        ]
        # The literal name wins over one in other case, and over one that only begins with it
        literal = [image_id for image_id in fits if PurePosixPath(image_id).name == wanted.name]
        fits = literal if len(literal) == 1 else fits
        if len(fits) > 1:
            raise UserError(
                f"wanted one photo for {name!r} of {source}, found {listed(fits)}: write the folder and the ending too"
            )
        return fits[0] if fits else None


def _folders_agree(folders1: Sequence[str], folders2: Sequence[str]) -> bool:
    count = min(len(folders1), len(folders2))
    return count == 0 or tuple(folders1[-count:]) == tuple(folders2[-count:])
