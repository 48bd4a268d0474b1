"""Choose the photos whose true boxes would help most: those that are doubted and unlike each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weaksam.evaluation.label_trust import BoxTrust
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class Suggestion:
    """A photo to draw true boxes on, and why.

    ``doubt`` in [0, 1]. ``missing``: labels of its tags that have no believed box. ``objects``: its believed boxes, the
    least trusted first, with ``chances`` ``(N,)`` in [0, 1] that each is right, nan where nothing is known.
    """

    image_id: str
    doubt: float
    missing: tuple[int, ...]
    objects: Instances
    chances: Tensor


def chosen_photos(doubts: Tensor, features: Tensor, num: int, given: Tensor | None = None) -> list[int]:
    """Rows of the ``num`` photos to label, in order: each time the one of the greatest doubt x distance.

    ``doubts (P,)`` in [0, 1]; ``features (P, D)``; ``given`` bool ``(P,)``: photos that have true boxes already, which
    are never chosen and from which the others are as far as from chosen ones. The distance is 1 - cosine to the nearest
    of them, 1 where there is none yet (then doubt alone counts). Doubts of 0 come last, in order of distance. Equal
    ones in the order of rows. Fewer than ``num`` photos give all of them. Ours: greedy k-centre (Sener and Savarese,
    ICLR 2018) whose distances are weighed by the doubt.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    open_rows = torch.ones(len(doubts), dtype=torch.bool) if given is None else ~given
    distance = torch.full((len(doubts),), torch.inf, dtype=torch.float64)
    if given is not None and bool(given.any()):
        distance = (1 - unit @ unit[given].T).clamp(min=0).amin(dim=1)
    chosen: list[int] = []
    for _ in range(min(num, int(open_rows.sum()))):
        gain = distance.nan_to_num(posinf=1.0) * doubts.double()
        if not bool((gain[open_rows] > 0).any()):
            gain = distance.nan_to_num(posinf=1.0)
        row = int(torch.where(open_rows, gain, -torch.inf).argmax())
        chosen.append(row)
        open_rows[row] = False
        distance = torch.minimum(distance, (1 - unit @ unit[row]).clamp(min=0))
    return chosen


def suggestion(
    image_id: str, doubt: float, tags: tuple[int, ...], believed: Instances, trust: BoxTrust | None
) -> Suggestion:
    """Why a photo is suggested, from its ``believed`` boxes and the ``trust`` in them; without any, its tags lack."""
    chances = torch.full((len(believed),), torch.nan) if trust is None else trust.known
    order = chances.nan_to_num(0.5).argsort(stable=True)
    missing = tuple(label for label in tags if label not in set(believed.labels.tolist()))
    return Suggestion(image_id, doubt, missing, believed[order], chances[order])


def reason(of: Suggestion, classes: tuple[str, ...]) -> str:
    """Why, in words: tags without a box, and the least trusted box."""
    parts = [f"no box of {classes[label]}" for label in of.missing]
    if len(of.objects):
        chance = float(of.chances[0])
        trust = "nothing is known of" if chance != chance else f"trust {chance:.2f} in"
        x1, y1, x2, y2 = (round(side) for side in of.objects.boxes[0].tolist())
        parts.append(f"{trust} the {classes[int(of.objects.labels[0])]} at {x1}, {y1}, {x2}, {y2}")
    return "; ".join(parts) or "unlike the others"


def as_rows(suggestions: list[Suggestion], classes: tuple[str, ...]) -> list[Mapping[str, object]]:
    """The suggestions as JSON can hold them, in order; boxes xyxy in pixels."""
    return [
        {
            "image": of.image_id,
            "doubt": round(of.doubt, 4),
            "reason": reason(of, classes),
            "without_box": [classes[label] for label in of.missing],
            "objects": [
                {"class": classes[label], "box": box, "trust": None if chance != chance else round(chance, 4)}
                for label, box, chance in zip(
                    of.objects.labels.tolist(), of.objects.boxes.tolist(), of.chances.tolist(), strict=True
                )
            ],
        }
        for of in suggestions
    ]
