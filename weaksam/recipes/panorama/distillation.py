"""Teach a student features, logits and pseudo maps of the assistant (GoodSAM-style MKA).

Multi-level knowledge adaptation is named, not specified, by GoodSAM (arXiv 2403.16370); terms and weights are ours
(docs/panorama.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam.recipes.panorama.fusion import DOUBTFUL

TEMPERATURE = 2.0
"""Of both softmaxes of the logit term."""


class FeatureProjections(nn.Module):
    """One 1 x 1 convolution a stage, from the student's channels to the assistant's."""

    def __init__(self, student: Sequence[int], assistant: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(narrow, wide, kernel_size=1) for narrow, wide in zip(student, assistant, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features ``(n, c, h, w)`` of each stage with the assistant's channels."""
        return [stage(feature) for stage, feature in zip(self.stages, features, strict=True)]


def feature_loss(student: Sequence[Tensor], assistant: Sequence[Tensor]) -> Tensor:
    """Mean over the stages of 1 - cosine of projected ``student`` and ``assistant`` features ``(n, C, h, w)``.

    The assistant gets no gradient; its maps are averaged or repeated to the student's size where they differ. In
    [0, 2], 0 where all directions agree; no stage gives 0.
    """
    terms = []
    for of_student, of_assistant in zip(student, assistant, strict=True):
        wanted = of_assistant.detach()
        if wanted.shape[-2:] != of_student.shape[-2:]:
            wanted = F.adaptive_avg_pool2d(wanted, of_student.shape[-2:])
        terms.append((1 - F.cosine_similarity(of_student, wanted, dim=1)).mean())
    return torch.stack(terms).mean() if terms else torch.zeros(())


def logit_loss(student: Tensor, assistant: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """T^2 KL(assistant || student) of ``(n, C, h, w)`` logits at temperature T: the mean over the pixels.

    The assistant gets no gradient. T^2 keeps the gradient's size whatever T (Hinton et al., arXiv 1503.02531).
    """
    wanted = F.log_softmax(assistant.detach() / temperature, dim=1)
    seen = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * (wanted.exp() * (wanted - seen)).sum(dim=1).mean()


def label_loss(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of ``student (n, C, h, w)`` with ``labels (n, h, w)``: the mean over pixels that are not doubtful.

    0 where all are.
    """
    total = F.cross_entropy(student, labels, ignore_index=DOUBTFUL, reduction="sum")
    return total / (labels != DOUBTFUL).sum().clamp(min=1)
