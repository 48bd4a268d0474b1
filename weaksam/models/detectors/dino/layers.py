"""Layers of the transformer: deformable attention over a pyramid, hidden layers, encoder and decoder layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from weaksam.models.detectors.dino.positions import PyramidAreas
from weaksam.models.detectors.dino.settings import DinoShape
from weaksam.models.query.deformable_attention import deformable_attention
from weaksam.structures.devices import numbers_on


class DeformableAttention(nn.Module):
    """Each query reads a few cells around its reference from every level (Deformable DETR, section 4.1)."""

    def __init__(self, shape: DinoShape) -> None:
        super().__init__()
        self.heads, self.levels, self.points = shape.num_heads, shape.num_levels, shape.num_points
        dims, num_cells = shape.embed_dims, shape.num_heads * shape.num_levels * shape.num_points
        self.sampling_offsets = nn.Linear(dims, 2 * num_cells)
        self.attention_weights = nn.Linear(dims, num_cells)
        self.value_proj = nn.Linear(dims, dims)
        self.output_proj = nn.Linear(dims, dims)
        self._reset()

    def _reset(self) -> None:
        """At first the heads look into as many directions, their points ever further out, with equal weights."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (H, 2)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None]
        offsets = (direction[:, None, None] * steps).expand(-1, self.levels, -1, -1)  # (H, L, P, 2)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, memory: Tensor, references: Tensor, areas: PyramidAreas) -> Tensor:
        """What ``queries`` (B, Q, C) read from ``memory`` (B, S, C), the cells of all levels: ``(B, Q, C)``.

        ``references`` of each query on every level, as shares of its padded width and height: points ``(B, Q, L, 2)``,
        or boxes ``(B, Q, L, 4)`` of centre and sides, whose sides scale the offsets.
        """
        values = self.value_proj(memory)
        if areas.padding is not None:
            values = values.masked_fill(areas.padding[..., None], 0.0)
        shape = (*queries.shape[:2], self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(queries).view(*shape, 2)
        weights = self.attention_weights(queries).view(*shape[:3], -1).softmax(-1).view(shape)
        if references.shape[-1] == 2:
            unit = 1 / numbers_on(offsets.device, [[w, h] for h, w in areas.sizes], offsets.dtype)[:, None]
        else:
            unit = references[:, :, None, :, None, 2:] * (0.5 / self.points)
        locations = references[:, :, None, :, None, :2] + offsets * unit
        heads = values.view(*values.shape[:2], self.heads, -1)
        sums: Tensor = self.output_proj(deformable_attention(heads, areas.sizes, locations, weights))
        return sums


class FeedForward(nn.Module):
    """Two linear layers, the first with ReLU, added to their input."""

    def __init__(self, dims: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(dims, hidden), nn.ReLU(inplace=True)), nn.Linear(hidden, dims)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (..., C) plus its hidden layer's output."""
        return x + self.layers(x)


class EncoderLayer(nn.Module):
    """Deformable attention of all cells to all levels, then the hidden layer; each is followed by its norm."""

    def __init__(self, shape: DinoShape) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(shape)
        self.ffn = FeedForward(shape.embed_dims, shape.ffn_dims)
        self.norms = nn.ModuleList(nn.LayerNorm(shape.embed_dims) for _ in range(2))

    def forward(self, memory: Tensor, position: Tensor, references: Tensor, areas: PyramidAreas) -> Tensor:
        """Refined cells ``(B, S, C)``; ``position`` (B, S, C) tells the queries where they are."""
        memory = self.norms[0](memory + self.self_attn(memory + position, memory, references, areas))
        refined: Tensor = self.norms[1](self.ffn(memory))
        return refined


class SelfAttention(nn.Module):
    """Attention among queries."""

    def __init__(self, dims: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dims, heads, batch_first=True)

    def forward(self, queries: Tensor, position: Tensor, blocked: Tensor | None) -> Tensor:
        """``queries`` (B, Q, C) plus what they read from each other, a row not from those ``blocked`` (Q, Q)."""
        placed = queries + position
        return queries + self.attn(placed, placed, queries, attn_mask=blocked, need_weights=False)[0]


class DecoderLayer(nn.Module):
    """Attention among queries, deformable attention to the memory, then the hidden layer."""

    def __init__(self, shape: DinoShape) -> None:
        super().__init__()
        self.self_attn = SelfAttention(shape.embed_dims, shape.num_heads)
        self.cross_attn = DeformableAttention(shape)
        self.ffn = FeedForward(shape.embed_dims, shape.ffn_dims)
        self.norms = nn.ModuleList(nn.LayerNorm(shape.embed_dims) for _ in range(3))

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        memory: Tensor,
        references: Tensor,
        areas: PyramidAreas,
        blocked: Tensor | None,
    ) -> Tensor:
        """Refined queries ``(B, Q, C)``."""
        queries = self.norms[0](self.self_attn(queries, position, blocked))
        queries = self.norms[1](queries + self.cross_attn(queries + position, memory, references, areas))
        refined: Tensor = self.norms[2](self.ffn(queries))
        return refined
