"""Find the classes whose tags teach a detector little or nothing, and say why."""

from __future__ import annotations

from collections import Counter

from weaksam.config import UserError
from weaksam.structures.dataset import Dataset

MIN_PHOTOS = 5
"""A class in fewer photos than this is hardly learned."""
ALMOST_EVERY = 0.95
"""A class in at least this share of the photos is next to a constant."""


def is_almost_constant(count: int, num_photos: int) -> bool:
    """Whether a class on ``count`` of so many photos is next to a constant; no photos: not."""
    return num_photos > 0 and count >= ALMOST_EVERY * num_photos


def tag_notes(dataset: Dataset) -> list[str]:
    """One sentence for every way in which the tags of ``dataset`` teach little; none for an empty dataset.

    A tag teaches by the difference between photos that have it and photos that lack it. So a class on every photo
    teaches nothing, one on at least 95 % of them next to nothing, and one on fewer than five photos too little.
    """
    num = len(dataset)
    if num == 0:
        return []
    counts = [sum(label in sample.tags for sample in dataset) for label in range(len(dataset.classes))]
    if all(count == num for count in counts):
        return [
            f"every one of the {num} photos has every class ({', '.join(dataset.classes)}): these tags carry no "
            "signal, because what is the object can only be told from photos that lack it; add photos without it"
        ]
    notes = []
    for name, count in zip(dataset.classes, counts, strict=True):
        if is_almost_constant(count, num):
            how_much = "no" if count == num else "almost no"
            notes.append(
                f"the class {name!r} is on {count} of {num} photos: its tag carries {how_much} signal, "
                "because hardly a photo lacks it; add photos without it"
            )
        elif count < MIN_PHOTOS:
            notes.append(
                f"the class {name!r} is on {count} of {num} photos, fewer than {MIN_PHOTOS}: expect it to be missed "
                "or mistaken, and add photos that have it"
            )
    return notes


def check_tags(dataset: Dataset) -> None:
    """Refuse tags that no classifier can learn from.

    Raises:
        UserError: a class that no photo has, or one class only, which every photo has.
    """
    counts, names = Counter(tag for sample in dataset for tag in sample.tags), dataset.classes
    empty = [name for label, name in enumerate(names) if counts[label] == 0]
    if empty:
        more = f" (nor {len(empty) - 1} others)" if len(empty) > 1 else ""
        raise UserError(
            f"wanted a photo tagged {empty[0]!r} to learn from, found none among {len(dataset)}{more}: tag some, or "
            "leave the class out of data.classes"
        )
    if len(names) == 1 and counts[0] == len(dataset):
        raise UserError(
            f"wanted at least two classes to tell apart, found {names[0]!r} on every photo: add photos of other "
            "classes, or photos without a tag"
        )
