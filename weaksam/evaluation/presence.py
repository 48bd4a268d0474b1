"""Learn from the tags alone what share of a class's detections of some score are there because of the tag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from weaksam.evaluation.protocol import require_scores
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class Presence:
    """Scores of one class made comparable with those of others: K steps of a function that never falls.

    ``scores`` (K,), ascending, and ``shares`` (K,) in [0, 1], float64: of the detections with about that score on
    photos with the tag, the share that photos without it lack. No steps (K = 0) where the tags cannot tell.
    """

    scores: np.ndarray
    shares: np.ndarray

    def of(self, scores: Tensor) -> Tensor:
        """The shares ``(N,)`` float64 of detections with ``scores`` (N,); 0 below the first step and without steps."""
        step = np.searchsorted(self.scores, scores.double().numpy(), side="right")
        return torch.from_numpy(np.concatenate([[0.0], self.shares])[step])


def tag_presence(
    detections: Mapping[str, Instances], tags: Mapping[str, Iterable[int]], num_classes: int
) -> list[Presence]:
    """The `Presence` of every class, from the ``detections`` on photos with and without its tag. Ours.

    Let a detection of the class be drawn at random from a photo with the tag or, as often, from one without. The chance
    q that it is of a photo with the tag, given its score, is found by isotonic regression, each photo of a side
    weighing the same. Where photos with the tag have q / (1 - q) times as many detections of a score as photos without,
    1 - (1 - q) / q of them are there because of the tag; 0 where that is negative. Photos are those of ``tags``, image
    id to labels. A class without a detection, or with its tag on all photos or on none, has no steps.
    """
    return [_presence(detections, tags, label) for label in range(num_classes)]


def _presence(detections: Mapping[str, Instances], tags: Mapping[str, Iterable[int]], label: int) -> Presence:
    tagged = {image_id: label in set(of_photo) for image_id, of_photo in tags.items()}
    num_tagged = sum(tagged.values())
    nothing = Presence(np.zeros(0), np.zeros(0))
    if num_tagged in (0, len(tagged)):
        return nothing
    weight_of = {True: 1 / num_tagged, False: 1 / (len(tagged) - num_tagged)}
    rows = [
        (score, float(is_tagged), weight_of[is_tagged])
        for image_id, is_tagged in tagged.items()
        for score in _scores(detections.get(image_id, Instances.empty(scored=True)), label)
    ]
    if not rows:
        return nothing
    scores, is_tagged, weights = np.array(rows, dtype=np.float64).T
    order = np.lexsort((-is_tagged, scores))  # equal scores become one step, whatever their order
    chance = isotonic_regression(is_tagged[order], weights=weights[order]).x
    return Presence(scores[order], np.clip(2 - 1 / np.maximum(chance, 1e-12), 0, 1))


def _scores(detections: Instances, label: int) -> list[float]:
    """The scores of one class's detections."""
    scores: list[float] = require_scores(detections)[detections.labels == label].double().tolist()
    return scores
