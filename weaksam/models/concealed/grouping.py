"""Group the cells of a feature map around learned prototypes of two granularities, to find what belongs together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

NUM_PROTOTYPES = (4, 2)
"""Prototypes of the first and of the second grouping, as published."""
ITERATIONS = 3
"""Rounds of the attention of slots."""
_EPS = 1e-8


class SlotAttention(nn.Module):
    """Slots that compete for the cells of a map (Locatello et al., NeurIPS 2020), from a learned start.

    The start is a parameter, not drawn from a Gaussian: the same input gives the same slots.
    """

    def __init__(self, num_slots: int, channels: int, iterations: int = ITERATIONS) -> None:
        super().__init__()
        self.iterations, self.scale = iterations, channels**-0.5
        self.start = nn.Parameter(torch.randn(num_slots, channels) * channels**-0.5)
        self.norm_input, self.norm_slots, self.norm_mlp = (nn.LayerNorm(channels) for _ in range(3))
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.update = nn.GRUCell(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def shares(self, slots: Tensor, keys: Tensor) -> Tensor:
        """Share ``(B, N, P)`` of each of N slots in each of P cells, summing to 1 over the slots."""
        logits = self.query(self.norm_slots(slots)) @ keys.transpose(1, 2) * self.scale
        return logits.softmax(dim=1)

    def forward(self, cells: Tensor) -> Tensor:
        """Slots ``(B, N, C)`` of ``cells (B, P, C)``."""
        cells = self.norm_input(cells)
        keys, values = self.key(cells), self.value(cells)
        slots = self.start.expand(len(cells), -1, -1)
        for _ in range(self.iterations):
            shares = self.shares(slots, keys) + _EPS
            means = (shares / shares.sum(dim=2, keepdim=True)) @ values  # (B, N, C)
            updated = self.update(means.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = updated + self.mlp(self.norm_mlp(updated))
        return slots


class SoftPosition(nn.Module):
    """Add a learned linear function of the place to every cell of a map of any size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape; the place is (y, x, 1 - y, 1 - x), each in [0, 1]."""
        y, x = (torch.linspace(0, 1, length, device=maps.device, dtype=maps.dtype) for length in maps.shape[-2:])
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        places = torch.stack([rows, columns, 1 - rows, 1 - columns], dim=-1)
        return maps + self.linear(places).permute(2, 0, 1)


class PrototypeGrouping(nn.Module):
    """Replace every cell by what N prototypes of its map say at its place."""

    def __init__(self, num_prototypes: int, channels: int) -> None:
        super().__init__()
        self.position, self.spread_position = SoftPosition(channels), SoftPosition(channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        self.attention = SlotAttention(num_prototypes, channels)
        self.joined = nn.Conv2d(num_prototypes * channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape, any h and w."""
        batch, _, height, width = maps.shape
        cells = self.mlp(self.position(maps).flatten(2).transpose(1, 2))  # (B, h w, C)
        slots = self.attention(cells)
        spread = slots.flatten(0, 1)[:, :, None, None].expand(-1, -1, height, width)  # (B N, C, h, w)
        return self.joined(self.spread_position(spread).reshape(batch, -1, height, width))


class GroupedMaps(NamedTuple):
    """A grouped map ``(B, C, h, w)``, and the gate ``(B, 1, 1, 1)`` in (0, 1) between both groupings."""

    maps: Tensor
    gate: Tensor


class MultiScaleGrouping(nn.Module):
    """Group by four prototypes, then by two, and mix both steps as a Runge-Kutta step of second order (MFG of WS-SAM).

    ``f1 = G4(F)``, ``f2 = G2(F + f1)``, ``F + a f1 + (1 - a) f2``; the gate a follows from mean and maximum of both.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = NUM_PROTOTYPES
        self.first, self.second = PrototypeGrouping(first, channels), PrototypeGrouping(second, channels)
        self.gate = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 1, 1, bias=False),
        )

    def grouped(self, maps: Tensor) -> GroupedMaps:
        """The grouped map of ``maps (B, C, h, w)`` with its gate."""
        first = self.first(maps)
        second = self.second(maps + first)
        both = torch.cat([first, second], dim=1)
        pooled = self.gate(both.mean((2, 3), keepdim=True)) + self.gate(both.amax((2, 3), keepdim=True))
        gate = pooled.sigmoid()
        return GroupedMaps(maps + gate * first + (1 - gate) * second, gate)

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape, any h and w."""
        return self.grouped(maps).maps
