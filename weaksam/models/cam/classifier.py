"""Train a tag classifier on frozen features; its weights turn feature maps into class activation maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class TagClassifier:
    """Logistic regression on standardised pooled features.

    ``weight`` (C, D), ``bias`` (C,), ``mean`` (D,) and ``deviation`` (D,) > 0 of the training features.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    deviation: Tensor

    def logits(self, pooled: Tensor) -> Tensor:
        """Class logits ``(B, C)`` of pooled features ``(B, D)``."""
        return F.linear((pooled - self.mean) / self.deviation, self.weight, self.bias)

    def class_maps(self, features: Tensor) -> Tensor:
        """Class activation maps ``(C, h, w)`` of one feature map ``(D, h, w)``.

        CAM (Zhou et al., CVPR 2016): the classifier applied at every position, without its bias, so that a map's mean
        is the image's logit less the bias. Positive where the position speaks for the class.
        """
        centred = (features - self.mean[:, None, None]) / self.deviation[:, None, None]
        return torch.einsum("cd,dhw->chw", self.weight, centred)

    def state(self) -> dict[str, Tensor]:
        """The four tensors by name: ``weight (C, D)``, ``bias (C,)``, ``mean (D,)`` and ``deviation (D,)``."""
        return {"weight": self.weight, "bias": self.bias, "mean": self.mean, "deviation": self.deviation}


def train_tag_classifier(pooled: Tensor, tags: Tensor, *, weight_decay: float, max_steps: int = 100) -> TagClassifier:
    """Fit by L-BFGS from zero; convex, so the result does not depend on a seed.

    ``pooled`` (N, D) features, ``tags`` (N, C) in {0, 1}. Minimises the mean binary cross-entropy over images and
    classes plus ``weight_decay / 2`` times the squared weights. N must be at least 1. Deviations get 0.1 of their mean
    added, so that a feature that never moves is not blown up.
    """
    mean, spread = pooled.mean(dim=0), pooled.std(dim=0, correction=0)
    deviation = spread + 0.1 * spread.mean() + 1e-6
    inputs = (pooled - mean) / deviation
    weight = torch.zeros(tags.shape[1], pooled.shape[1], requires_grad=True)
    bias = torch.zeros(tags.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=max_steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(F.linear(inputs, weight, bias), tags)
        loss = loss + 0.5 * weight_decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return TagClassifier(weight.detach(), bias.detach(), mean, deviation)
