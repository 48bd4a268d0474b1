"""Find the classes whose best boxes are worse than the largest proposal by their surroundings, and give them that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weaksam.engine.context import RunContext
from weaksam.models.ranks import ranks
from weaksam.models.wsod.extent import CellMap, contrast
from weaksam.store.listed_files import list_file
from weaksam.store.records import read_record, write_record
from weaksam.structures.boxes import area
from weaksam.structures.instances import Instances
from weaksam.terminal import say


@dataclass(frozen=True)
class JudgedPhoto:
    """A training photo with proposals, as the guard sees it."""

    map: CellMap
    boxes: Tensor
    """Proposals ``(N, 4)``, N at least 1."""
    best: Mapping[int, int]
    """Of each tag, by label, which of them the detector scores best."""
    weights: Tensor
    """Of the regression of each class ``(C, K + 1)`` that other photos taught."""


@dataclass(frozen=True)
class GuardSignals:
    """Mean `contrast` of the boxes of each class (C,) on the photos with its tag; 0 where there is no such photo."""

    best: tuple[float, ...]
    """Of the best-scored proposals."""
    largest: tuple[float, ...]
    """Of the largest ones, which tags alone would pick."""

    @property
    def guarded(self) -> tuple[int, ...]:
        """The labels whose largest proposals stand out from their surroundings more than the best-scored ones do."""
        pairs = zip(self.best, self.largest, strict=True)
        return tuple(label for label, (best, largest) in enumerate(pairs) if largest > best)


def guard_signals(photos: Iterable[JudgedPhoto], num_classes: int, ring: float) -> GuardSignals:
    """The signals of all classes, ours: by `contrast` with rings of this width, on photos that taught none of it."""
    sums, counts = torch.zeros(2, num_classes, dtype=torch.float64), torch.zeros(num_classes)
    for photo in photos:
        largest = int(area(photo.boxes).argmax())
        for label, best in photo.best.items():
            pair = photo.boxes[[best, largest]]
            sums[:, label] += contrast(photo.map, photo.weights[label], pair, ring).double()
            counts[label] += 1
    means = sums / counts.clamp(min=1)
    return GuardSignals(tuple(means[0].tolist()), tuple(means[1].tolist()))


def stored_signals(
    context: RunContext,
    photos: Callable[[], Iterable[JudgedPhoto]],
    ring: float,
    folder: Path,
    name: str,
) -> GuardSignals:
    """`guard_signals` of the training photos, computed once for each ``ring``: they are listed files of ``folder``.

    That is the folder of the sealed regressions. The log has the signals, and a guarded class is named.
    """
    num_classes = len(context.train.classes)
    path = folder / f"guard-{ring:g}.json"
    with ranks().first_before_others():
        record = read_record(path)
        if record is None or not all(_is_row(record.get(of), num_classes) for of in ("best", "largest")):
            signals = guard_signals(photos(), num_classes, ring)
            write_record(path, {"best": signals.best, "largest": signals.largest})
            list_file(path)
            record = read_record(path)
            assert record is not None, f"{path} was just written"
    signals = GuardSignals(tuple(record["best"]), tuple(record["largest"]))
    classes = [context.train.classes[label] for label in signals.guarded]
    context.log.write("guard", stage=name, best=signals.best, largest=signals.largest, classes=classes)
    if classes:
        say(f"{name}: classes whose best boxes are worse than the largest proposal: {', '.join(classes)}", error=True)
    return signals


def _is_row(values: object, num_classes: int) -> bool:
    """Whether a record's entry is a number for each class."""
    return isinstance(values, list) and len(values) == num_classes and all(isinstance(value, float) for value in values)


def with_largest(detections: Instances, labels: Sequence[int], boxes: Tensor, least_score: float) -> Instances:
    """The detections of a photo, of which each class in ``labels`` has the largest of ``boxes`` (N, 4) alone.

    It has the best score of its class, or ``least_score`` where there was none. The result comes best first; without
    proposals, or labels, it is the detections themselves.
    """
    if len(boxes) == 0 or not labels:
        return detections
    assert detections.scores is not None, "detections have scores"
    largest = boxes[area(boxes).argmax()]
    kept = ~torch.isin(detections.labels, torch.tensor(labels))
    best = [
        float(detections.scores[detections.labels == label].max())
        if bool((detections.labels == label).any())
        else least_score
        for label in labels
    ]
    new = Instances(largest.expand(len(labels), 4), torch.tensor(labels), torch.tensor(best))
    joined = Instances.cat([detections[kept], new])
    assert joined.scores is not None, "both have scores"
    return joined[joined.scores.argsort(descending=True, stable=True)]
