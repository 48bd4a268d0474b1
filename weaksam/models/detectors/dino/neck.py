"""Bring a backbone's maps to one depth and add coarser levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class ConvNorm(nn.Module):
    """A convolution, and group-norm."""

    def __init__(
        self, channels: int, out_channels: int, groups: int, *, size: int = 1, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, stride, padding=size // 2, bias=bias)
        self.gn = nn.GroupNorm(groups, out_channels)
        nn.init.xavier_uniform_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, K, h', w')`` of a map ``(B, C, h, w)``."""
        normed: Tensor = self.gn(self.conv(x))
        return normed


class ChannelMapper(nn.Module):
    """The levels of the pyramid: each map by a 1x1 convolution, coarser ones by 3x3 convolutions of stride 2.

    The first coarser level is made of the backbone's deepest map, every further one of the level before. ``bias``: the
    convolutions add one, which group-norm does not take away, as it is another for every channel of a group.
    """

    def __init__(self, channels: Sequence[int], dims: int, groups: int, num_levels: int, *, bias: bool = False) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNorm(depth, dims, groups, bias=bias) for depth in channels)
        depths = [channels[-1], *[dims] * num_levels][: num_levels - len(channels)]
        self.extra_convs = nn.ModuleList(ConvNorm(depth, dims, groups, size=3, stride=2, bias=bias) for depth in depths)

    def forward(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """Levels ``(B, dims, h, w)``, finest first."""
        inputs = list(maps.values())
        levels = [conv(feature_map) for conv, feature_map in zip(self.convs, inputs, strict=True)]
        coarse = inputs[-1]
        for conv in self.extra_convs:
            coarse = conv(coarse)
            levels.append(coarse)
        return levels
