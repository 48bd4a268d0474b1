"""Rank regions by how likely each is an object, with a small network on their measured features."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from weaksam.sam.region_tree.merging import FEATURES
from weaksam.store.weights import load_state
from weaksam.structures.boxes import nms

BUNDLED = Path(__file__).parents[1] / "weights" / "objectness.safetensors"
HIDDEN = 16
CROWDED = ((0.7, 0.6), (0.5, 0.6))
"""A region keeps this part (second) of its score for each IoU (first) by which a better one covers its box."""


class Objectness(nn.Module):
    """Features ``(N, F)``, see ``merging.FEATURES``, to the logit ``(N,)`` of being an object.

    The target of training was 1 for regions whose box reaches IoU 0.75 with a true one, 0.5 from IoU 0.5 on, else 0
    (``tools/train_objectness.py``).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(FEATURES)))
        self.register_buffer("deviation", torch.ones(len(FEATURES)))
        self.layers = nn.Sequential(nn.Linear(len(FEATURES), HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(N,)`` of features ``(N, F)``."""
        logits: Tensor = self.layers((features - self.mean) / self.deviation)[:, 0]
        return logits


@lru_cache(maxsize=1)
def bundled() -> Objectness:
    """The ranker with its bundled weights."""
    network = Objectness()
    network.load_state_dict(load_state(BUNDLED, "the region ranker"))
    return network.eval().requires_grad_(False)


def spread_out(boxes: Tensor, scores: Tensor) -> Tensor:
    """``scores (N,)`` lowered where a better box covers most of the same place, so that each place's best box leads.

    The same object shows up in many trees with slightly different outlines; suppressing those at a low IoU would lose
    the better outline, leaving them would fill the head of the list with one object.
    """
    lowered = scores.clone()
    for iou, factor in CROWDED:
        crowded = torch.ones(len(scores), dtype=torch.bool)
        crowded[nms(boxes, scores, iou)] = False
        lowered[crowded] *= factor
    return lowered
