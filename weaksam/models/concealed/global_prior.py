"""Guess from the deepest features alone where the object lies: the prior that the decoder refines."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam.models.concealed.blocks import conv_norm

RATES = (6, 12, 18)
"""Dilations of the pyramid's 3x3 convolutions."""


class PositionAttention(nn.Module):
    """Every cell looks at all others (Fu et al., DANet, CVPR 2019); at the start it changes nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 8)
        self.query, self.key = nn.Conv2d(channels, hidden, 1), nn.Conv2d(channels, hidden, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        query, key, value = (layer(maps).flatten(2) for layer in (self.query, self.key, self.value))
        shares = (query.transpose(1, 2) @ key).softmax(dim=-1)  # (B, P, P), over the cells looked at
        return maps + self.strength * (value @ shares.transpose(1, 2)).view_as(maps)


class GlobalPrior(nn.Module):
    """A pyramid of dilated convolutions (Chen et al., 2017), position attention, and one map of logits (GPM).

    The branch of the whole image's mean has a bias instead of batch-norm, which one value a channel cannot have.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.whole = nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.ReLU(inplace=True))
        self.branches = nn.ModuleList(
            [conv_norm(in_channels, channels), *(conv_norm(in_channels, channels, 3, dilation=rate) for rate in RATES)]
        )
        self.joined = conv_norm((2 + len(RATES)) * channels, 2 * channels, 3)
        self.attention = PositionAttention(2 * channels)
        self.head = nn.Sequential(
            nn.Conv2d(2 * channels, channels // 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.PReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(channels // 2, 1, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Logits ``(B, 1, h, w)`` of the deepest map ``(B, in_channels, h, w)``."""
        whole = self.whole(F.adaptive_avg_pool2d(maps, 1)).expand(-1, -1, *maps.shape[-2:])
        joined = self.joined(torch.cat([whole, *(branch(maps) for branch in self.branches)], dim=1))
        return self.head(self.attention(joined))
