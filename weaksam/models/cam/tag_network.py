"""Train a backbone end to end on tags: its class maps are pooled by a soft maximum."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.models.backbones.features import FeatureExtractor


def soft_maximum(maps: Tensor, sharpness: float) -> Tensor:
    """Log-mean-exp of ``maps`` (..., h, w) over positions, ``(...)``: near the mean for a small sharpness.

    ``log(mean(exp(r z))) / r`` (Pinheiro and Collobert, CVPR 2015): small objects count more than in a mean, and more
    than one position learns, unlike with a maximum.
    """
    flat = (sharpness * maps).flatten(-2)
    return (torch.logsumexp(flat, dim=-1) - math.log(flat.shape[-1])) / sharpness


class TagNetwork(nn.Module):
    """A feature extractor and a 1 x 1 classifier on its map ``map_name``, pooled by `soft_maximum`."""

    def __init__(self, features: FeatureExtractor, map_name: str, num_classes: int, sharpness: float) -> None:
        super().__init__()
        self.features, self.map_name, self.sharpness = features, map_name, sharpness
        self.head = nn.Conv2d(features.channels[map_name], num_classes, 1)
        for tensor in self.head.parameters():
            nn.init.zeros_(tensor)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits ``(B, C)`` of normalised images ``(B, 3, H, W)``."""
        return soft_maximum(self.head(self.features(images)[self.map_name]), self.sharpness)


def tag_loss(logits: Tensor, tags: Tensor) -> Tensor:
    """Mean binary cross-entropy over images and classes of logits ``(B, C)`` against tags ``(B, C)`` in {0, 1}."""
    return F.binary_cross_entropy_with_logits(logits, tags)


def vary_view(image: Tensor, border: int = 16, generator: torch.Generator | None = None) -> Tensor:
    """A normalised photo ``(3, h, w)``, mirrored half of the time and shifted by up to ``border`` pixels each way.

    Draws from the ``generator`` or torch's global random numbers; what is shifted in is the mean colour (0 after
    normalisation).
    """
    if torch.rand((), generator=generator) < 0.5:
        image = image.flip(2)
    height, width = image.shape[1:]
    top, left = torch.randint(0, 2 * border + 1, (2,), generator=generator).tolist()
    return F.pad(image, (border,) * 4)[:, top : top + height, left : left + width]
