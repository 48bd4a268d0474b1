"""Choose among the detections of the weak detector, of the retrained network and of both merged, without true boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from weaksam.data.detection_stores import instances_of
from weaksam.evaluation.tag_ap import tag_agreement
from weaksam.stages.retrain.candidates import CandidateName, Candidates
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

LEAST_LEAD = 0.02
"""Tag AP that the detections of one detector must have above the merged ones to be preferred to them."""


@dataclass(frozen=True)
class Choice:
    """Whose detections are handed on, why in words, and the signal in [0, 1] of each that was compared."""

    name: CandidateName
    reason: str
    signals: Mapping[CandidateName, float]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-like values."""
        return {"name": self.name, "reason": self.reason, "signals": dict(self.signals)}


def choose(
    photos: Dataset, candidates: Candidates, wanted: Literal["auto", "weak", "retrained", "merged"] = "auto"
) -> Choice:
    """The choice among ``candidates`` by `tag_signal` on the training ``photos``; ours.

    ``auto`` takes the merged detections, unless those of one detector have a signal that is higher by `LEAST_LEAD`:
    two detectors err in different ways, and their mean is the better box where both are about as good. Without
    detections on the training photos nothing can be compared and the merged ones are taken. Signals are computed
    whatever is ``wanted``.
    """
    signals: dict[CandidateName, float] = {}
    for name, stores in candidates.items():
        if "train" in stores:
            signals[name] = tag_signal(photos, instances_of(stores["train"]))
    if wanted != "auto":
        return Choice(wanted, f"retrain.choice={wanted}", signals)
    if not signals:
        return Choice("merged", "nothing to compare without detections on the training photos", signals)
    best = max(("weak", "retrained"), key=lambda name: signals[name])
    figures = f"tag AP {signals[best]:.3f} of {best} against {signals['merged']:.3f} of merged, lead {LEAST_LEAD:g}"
    if signals[best] >= signals["merged"] + LEAST_LEAD:
        return Choice(best, f"{figures} reached", signals)
    return Choice("merged", f"{figures} not reached", signals)


def tag_signal(photos: Dataset, detections: Mapping[str, Instances]) -> float:
    """Mean AP in [0, 1] of the best score of each class on each photo against the photo's tags.

    It tells class confusions and objects found where none are from right detections. It is blind to the extent of
    boxes and to all but the best box of a class on a photo, and is flattered by photos that were trained on. A photo
    without detections scores 0 for every class; photos without any tag give 0.
    """
    tags = {sample.image_id: sample.tags for sample in photos}
    return tag_agreement(detections, tags, len(photos.classes))
