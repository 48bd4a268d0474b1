"""Compare what the words of a class find with its tags and its class maps, without true boxes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from weaksam.evaluation.tag_ap import best_scores, tag_average_precision
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

LEAST_TAG_AP = 0.5
"""Tag AP that words must reach where nothing held out tells that of the class maps."""
MOST_PHOTOS = 20
"""Photos of a class on which the places of hits and class maps are compared."""


class MappedClasses(Protocol):
    """Class maps of a photo: ``labels (L,)``, by kind one ``(N, L, h, w)`` a scale, and the photo's ``size`` (H, W)."""

    labels: Tensor
    kinds: Mapping[int, tuple[Tensor, ...]]
    size: tuple[int, int]


@dataclass(frozen=True)
class ClassAgreement:
    """How far the words of one class agree with its tags and its class maps.

    ``hit_share``: share in [0, 1] of the photos with the tag on which the words find it. ``false_share``: the same of
    the photos without the tag, whose hits are vetoed. ``text_ap``, ``map_ap``: AP of the tag by the best hit of a
    photo, and by the tag classifier on photos that it did not learn from. ``same_place``: share of up to `MOST_PHOTOS`
    photos with tag and hit on which the highest place of the class map lies inside a hit. None where there is nothing
    to compare. ``source``: what maps the class, ``text`` or ``maps``.
    """

    hit_share: float | None
    false_share: float | None
    text_ap: float | None
    map_ap: float | None
    same_place: float | None
    source: Literal["text", "maps"]


def class_agreement(
    photos: Dataset,
    hits: Mapping[str, Instances],
    maps_of: Callable[[str], MappedClasses],
    *,
    held_out: Tensor | None,
    choose: bool,
    asked: Collection[int],
) -> dict[str, ClassAgreement]:
    """The agreement of every class of the training ``photos`` by its name, and its source; ours.

    ``hits``: by image id, of all classes. ``held_out (C,)``: tag AP of the class maps' classifier on photos that it did
    not learn from. With ``choose`` the words map a class whose tag AP by words is at least that, or without it
    `LEAST_TAG_AP`; else every class of ``asked`` (labels with words). Photos without any tag count as photos without
    the class.
    """
    tags = photos.tag_matrix().bool()
    classes = len(photos.classes)
    scores = torch.stack([best_scores(hits.get(image_id, Instances.empty()), classes) for image_id in photos.image_ids])
    tag_ap = tag_average_precision(scores, tags)
    agreement = {}
    for label, name in enumerate(photos.classes):
        has_tag, hit = tags[:, label], scores[:, label] > 0
        text_ap = None if label not in asked else _value(tag_ap[label])
        map_ap = None if held_out is None else _value(held_out[label])
        wanted = LEAST_TAG_AP if map_ap is None else map_ap
        by_words = label in asked and (not choose or (text_ap is not None and text_ap >= wanted))
        shown = [photos.image_ids[row] for row in (has_tag & hit).nonzero()[:MOST_PHOTOS, 0].tolist()]
        inside = [_same_place(hits[image_id], maps_of(image_id), label) for image_id in shown]
        agreement[name] = ClassAgreement(
            hit_share=_share(hit[has_tag]) if label in asked else None,
            false_share=_share(hit[~has_tag]) if label in asked else None,
            text_ap=text_ap,
            map_ap=map_ap,
            same_place=sum(inside) / len(inside) if inside else None,
            source="text" if by_words else "maps",
        )
    return agreement


def agreement_sentence(agreement: Mapping[str, ClassAgreement]) -> str:
    """What maps each class, and the figures behind it, in one sentence; "" of no class."""
    return "; ".join(f"{name}: {_in_words(of_class)}" for name, of_class in agreement.items())


def doubted(agreement: Mapping[str, ClassAgreement]) -> list[str]:
    """Classes, by name, whose words are probably wrong: found on less than half of their photos, or elsewhere.

    Elsewhere means that words and class maps disagree about the place on more than half of the photos.
    """
    return [
        name
        for name, of_class in agreement.items()
        if of_class.hit_share is not None
        and (of_class.hit_share < 0.5 or (of_class.same_place is not None and of_class.same_place < 0.5))
    ]


def _in_words(of_class: ClassAgreement) -> str:
    if of_class.hit_share is None:
        return "class maps, no words"
    figures = [f"found on {of_class.hit_share:.0%} of its photos"]
    if of_class.false_share is not None:
        figures.append(f"on {of_class.false_share:.0%} of the others")
    if of_class.same_place is not None:
        figures.append(f"where the class map is highest on {of_class.same_place:.0%}")
    aps = [(of_class.text_ap, "words"), (of_class.map_ap, "held-out class maps")]
    figures += [f"tag AP {value:.3f} of {what}" for value, what in aps if value is not None]
    return f"{'words' if of_class.source == 'text' else 'class maps'} ({', '.join(figures)})"


def _same_place(hits: Instances, maps: MappedClasses, label: int) -> bool:
    """Whether the highest cell of the class's first map lies inside a hit of the class."""
    rows = (maps.labels == label).nonzero()
    if len(rows) == 0 or not maps.kinds:
        return False
    class_map = next(iter(maps.kinds.values()))[0][:, rows[0, 0]].float().mean(dim=0)  # (h, w)
    height, width = class_map.shape
    y, x = divmod(int(class_map.argmax()), width)
    place = torch.tensor([(x + 0.5) * maps.size[1] / width, (y + 0.5) * maps.size[0] / height])
    boxes = hits.boxes[hits.labels == label]
    return bool(((boxes[:, :2] <= place) & (place < boxes[:, 2:])).all(dim=1).any())


def _share(flags: Tensor) -> float | None:
    return float(flags.float().mean()) if len(flags) else None


def _value(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)
