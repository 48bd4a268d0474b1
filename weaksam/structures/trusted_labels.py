"""Say how what was labelled on a photo overrules what was guessed there: one rule of trust for seeds and pseudo boxes.

Ours. Given boxes are believed and stand in for guesses on the same object; each point or scribble gets one guess that
holds it; a count bounds how many guesses are believed; a complete photo has no other objects; tags fill the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.structures.boxes import pairwise_ioa, pairwise_iou
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import Marks, PhotoLabels
from weaksam.structures.proposals import Proposals

SAME = 0.5
"""IoU from which on two boxes of a class are on one object."""
INSIDE = 0.85
"""Share of a guessed box's area in a given one of its class from which on it is a part of that object."""
_ROUNDING = 0.5
"""Pixels by which a mark may reach out of the box that holds it."""


class Sorted(NamedTuple):
    """What becomes of N guesses: bool ``(N,)`` each; a guess that is neither is known to be no object of its own."""

    believed: Tensor
    ignored: Tensor
    """Perhaps an object, perhaps not: a region to ignore."""


def on_one_of(boxes: Instances, others: Instances) -> Tensor:
    """Bool ``(N,)``: boxes that overlap one of ``others`` of their class by `SAME` or more."""
    if len(boxes) == 0 or len(others) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool)
    same = boxes.labels[:, None] == others.labels
    return ((pairwise_iou(boxes.boxes, others.boxes) >= SAME) & same).any(dim=1)


def stood_for_by(boxes: Instances, certain: Instances) -> Tensor:
    """Bool ``(N,)``: boxes that are the object of a ``certain`` box of their class, or lie in it by `INSIDE`."""
    if len(boxes) == 0 or len(certain) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool)
    parts = (pairwise_ioa(boxes.boxes, certain.boxes) >= INSIDE) & (boxes.labels[:, None] == certain.labels)
    return on_one_of(boxes, certain) | parts.any(dim=1)


def holding(boxes: Tensor, labels: Tensor, marks: Marks) -> Tensor:
    """Bool ``(N, K)``: which boxes ``(N, 4)`` of classes ``labels (N,)`` hold which marks of their class wholly."""
    starts = boxes[:, None, :2] - _ROUNDING <= marks.extents[:, :2]
    ends = marks.extents[:, 2:] <= boxes[:, None, 2:] + _ROUNDING
    return (starts & ends).all(dim=2) & (labels[:, None] == marks.labels)


def open_marks(labels: PhotoLabels) -> Marks:
    """The marks that lie in no given box of their class: those whose object has no box yet."""
    objects = labels.objects
    return labels.marks.select(~holding(objects.boxes, objects.labels, labels.marks).any(dim=0))


def boxes_of_marks(boxes: Tensor, labels: Tensor, scores: Tensor, marks: Marks, wanted: Tensor | None = None) -> Tensor:
    """For each of K marks the row of its box among boxes ``(N, 4)`` with ``labels (N,)`` and scores ``(N,)``, ``(K,)``.

    One box for a mark and one mark for a box, greedily: boxes that hold one mark of their class come before those that
    hold several, which are groups more often than objects, and the better score comes first, the first of equals. -1
    for a mark that no free box of its class holds, and for marks that are not ``wanted``, bool ``(K,)``.
    """
    held = holding(boxes, labels, marks)  # (N, K)
    rows = torch.full((len(marks.labels),), -1)
    order = scores.argsort(descending=True, stable=True)
    order = order[held.sum(dim=1)[order].argsort(stable=True)]
    held = held[order] & (True if wanted is None else wanted)
    while bool(held.any()):
        first = int(held.any(dim=1).long().argmax())
        mark = int(held[first].long().argmax())
        rows[mark] = order[first]
        held[first], held[:, mark] = False, False
    return rows


def sort_guesses(guesses: Instances, certain: Instances, labels: PhotoLabels) -> Sorted:
    """Which of N scored ``guesses`` stay believed beside the ``certain`` boxes, those given and those of marks.

    A guess on the object of a certain box, or around a mark, goes: that object has its box. Of a class with a count the
    best-scored are believed up to it, certain boxes first; others are ignored, unless the certain boxes are as many as
    the count, for then they are no objects. On a complete photo no guess is one. Guesses marked ``crowd`` are ignored,
    or go.
    """
    assert guesses.scores is not None, "guesses have scores"
    stays = ~stood_for_by(guesses, certain)
    stays &= ~holding(guesses.boxes, guesses.labels, labels.marks).any(dim=1) & (not labels.complete)
    zones = torch.zeros(len(guesses), dtype=torch.bool) if guesses.crowd is None else guesses.crowd
    believed, ignored = stays & ~zones, stays & zones
    for label, count in labels.counts.items():
        of_class = guesses.labels == label
        room = max(0, count - int((certain.labels == label).sum()))
        ranked = torch.where(believed & of_class, guesses.scores, -1.0).argsort(descending=True, stable=True)
        beyond = torch.zeros(len(guesses), dtype=torch.bool)
        beyond[ranked[room:]] = True
        beyond &= believed & of_class
        believed &= ~beyond
        ignored = (ignored | beyond) if room else (ignored & ~of_class)
    return Sorted(believed, ignored)


def trusted(guesses: Instances, candidates: Instances, labels: PhotoLabels, proposals: Proposals | None) -> Instances:
    """Pseudo ground truth of one photo: the ``guesses`` that were chosen, overruled by what was labelled there.

    Given boxes have score 1. A mark's box is the best of the ``candidates`` (scored, of any class), else of the
    ``proposals``, see `boxes_of_marks`; one that neither holds has none. The guesses that stay come first, see
    `sort_guesses`; nothing labelled leaves the guesses as they are.
    """
    if labels.says_nothing:
        return guesses
    given = Instances(labels.boxes.boxes, labels.boxes.labels, torch.ones(len(labels.boxes)), crowd=labels.boxes.crowd)
    certain = Instances.cat([given.without_crowd(), _of_marks(candidates, labels, proposals)])
    certain = certain.replace(crowd=None)
    sorted_guesses = sort_guesses(guesses, certain, labels)
    kept = guesses[sorted_guesses.believed | sorted_guesses.ignored]
    ignored = sorted_guesses.ignored[sorted_guesses.believed | sorted_guesses.ignored]
    zones = Instances.empty(scored=True) if given.crowd is None else given[given.crowd]
    marks = torch.cat([ignored, torch.zeros(len(certain), dtype=torch.bool), torch.ones(len(zones), dtype=torch.bool)])
    parts = [part.replace(crowd=None, masks=None) for part in (kept, certain, zones)]
    return Instances.cat(parts).replace(crowd=marks if bool(marks.any()) or guesses.crowd is not None else None)


def _of_marks(candidates: Instances, labels: PhotoLabels, proposals: Proposals | None) -> Instances:
    """The boxes of the photo's open marks, with the scores of what they were taken from."""
    marks, objects = open_marks(labels), labels.objects
    free = candidates[~on_one_of(candidates, objects)]
    assert free.scores is not None, "candidates have scores"
    rows = boxes_of_marks(free.boxes, free.labels, free.scores, marks)
    parts = [Instances(free.boxes, free.labels, free.scores)[rows[rows >= 0]]]
    rest = rows < 0
    for label in marks.labels[rest].unique().tolist() if proposals is not None else ():
        assert proposals is not None
        boxes = Instances(proposals.boxes, torch.full((len(proposals),), label), proposals.scores.clamp(0, 1))
        boxes = boxes[~on_one_of(boxes, objects)]
        assert boxes.scores is not None
        rows = boxes_of_marks(boxes.boxes, boxes.labels, boxes.scores, marks, rest)
        parts.append(boxes[rows[rows >= 0]])
    return Instances.cat(parts)
