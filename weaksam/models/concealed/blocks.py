"""Define the convolution blocks of the network for concealed objects: texture, attention, fusion."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATTENTION_RATIO = 16
"""Channels over hidden channels of a channel attention."""
TEXTURE_KERNELS = (3, 5, 7)
"""Length of the thin kernels of a texture block's branches, and their dilation."""


def conv_norm(in_channels: int, channels: int, kernel: int | tuple[int, int] = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size, batch-norm and ReLU."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, (height, width), padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(B, C, h, w)`` at ``size`` (H, W), bilinear; those of that size as they are."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class TextureBlock(nn.Module):
    """Receptive fields of several shapes over one map (the RF block of SINet, ETM of WS-SAM).

    Four branches, a 1x1 convolution alone or followed by 1xk, kx1 and a 3x3 dilated by k, for k of 3, 5 and 7; together
    through a 3x3, plus a 1x1 of the input.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        branches = [conv_norm(in_channels, channels)]
        for length in TEXTURE_KERNELS:
            branches.append(
                nn.Sequential(
                    conv_norm(in_channels, channels),
                    conv_norm(channels, channels, (1, length)),
                    conv_norm(channels, channels, (length, 1)),
                    conv_norm(channels, channels, 3, dilation=length),
                )
            )
        self.branches = nn.ModuleList(branches)
        self.joined = conv_norm(len(branches) * channels, channels, 3)
        self.residual = conv_norm(in_channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, in_channels, h, w)`` to ``(B, channels, h, w)``."""
        joined = self.joined(torch.cat([branch(maps) for branch in self.branches], dim=1))
        return F.relu(joined + self.residual(maps))


class PooledAttention(nn.Module):
    """CBAM (Woo et al., ECCV 2018): channels, then places, weighted by what mean and maximum say of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // ATTENTION_RATIO)
        self.channels = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        self.places = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        pooled = self.channels(maps.mean((2, 3), keepdim=True)) + self.channels(maps.amax((2, 3), keepdim=True))
        maps = maps * pooled.sigmoid()
        places = torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], dim=1)
        return maps * self.places(places).sigmoid()


class ResidualAttentionBlock(nn.Module):
    """RCAB (Zhang et al., ECCV 2018): two convolutions, channels weighted by their means, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // ATTENTION_RATIO)
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.weights = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1), nn.Sigmoid()
        )

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        changed = self.body(maps)
        return maps + changed * self.weights(changed.mean((2, 3), keepdim=True))


class TopDownFusion(nn.Module):
    """Join a deeper map with the next shallower one (InterFA of WS-SAM).

    Returns what flows on to shallower maps, and what the decoder reads, both ``(B, channels, H, W)`` of the shallow
    map's size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.joined = conv_norm(2 * channels, channels, 3)
        self.attention = PooledAttention(channels)
        self.read = conv_norm(2 * channels, channels)

    def forward(self, deep: Tensor, shallow: Tensor) -> tuple[Tensor, Tensor]:
        """``deep (B, C, h, w)`` and ``shallow (B, C, H, W)``."""
        deep = resized(deep, (shallow.shape[-2], shallow.shape[-1]))
        flow = self.attention(self.joined(torch.cat([deep, shallow], dim=1)))
        return flow, self.read(torch.cat([flow, shallow], dim=1))
