"""Fuse the attention of all heads and blocks with learned weights (WeakTr's adaptive attention fusion)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from weaksam.models.weaktr.vit import BlockOutput, VitShape

Fusion = Literal["feature_max", "feature_mean", "map_max", "map_mean"]


@dataclass(frozen=True)
class FusionShape:
    """Which published variant, and the widths of its hidden layers."""

    kind: Fusion
    hidden: int
    feature_hidden: int = 0

    @classmethod
    def of(cls, kind: Fusion, vit: VitShape, reduction: int, feature_reduction: int) -> FusionShape:
        """The fusion for a transformer of shape ``vit``: hidden layers that many times narrower, at least one wide."""
        hidden = max(1, vit.num_heads * vit.depth // reduction)
        return cls(kind, hidden, max(1, vit.width // vit.num_heads // feature_reduction))

    @property
    def of_features(self) -> bool:
        """Whether it pools attention features rather than attention maps."""
        return self.kind.startswith("feature")


class AttentionFusion(nn.Module):
    """Weights in (0, 1) for the H heads of L blocks, by squeeze and excitation of what is pooled from each.

    The two published variants differ in what they pool, and in their parameters' names:

    * ``feature_*`` (WeakTr today): what a block's attention gathered, pooled over the tokens; channel ``i`` of it
      belongs to head ``i mod H``, as published. Two linear layers (``attn_feat_ffn``, nothing between them) make one
      number of each head's channels, a bottleneck (``attn_head_ffn``) the weights.
    * ``map_*`` (older, the one in WeakSAM): the attention map itself, pooled over all its entries, then the bottleneck
      (``fc``). Rows of attention sum to 1, so ``map_mean`` pools ``1 / n`` of any image: its weights depend on the
      number of tokens alone. It is there for old checkpoints.
    """

    def __init__(self, vit: VitShape, shape: FusionShape) -> None:
        super().__init__()
        self.num_heads, self.shape = vit.num_heads, shape
        channels = vit.num_heads * vit.depth
        bottleneck = nn.Sequential(
            nn.Linear(channels, shape.hidden, bias=False),
            nn.ReLU(),
            nn.Linear(shape.hidden, channels, bias=False),
            nn.Sigmoid(),
        )
        if shape.of_features:
            self.attn_head_ffn = bottleneck
            depth = vit.width // vit.num_heads
            self.attn_feat_ffn = nn.Sequential(
                nn.Linear(depth, shape.feature_hidden), nn.Linear(shape.feature_hidden, 1)
            )
        else:
            self.fc = bottleneck

    def forward(self, blocks: Sequence[BlockOutput]) -> Tensor:
        """Weights ``(B, H, L)`` of the heads of ``blocks``; what they pool is detached, only this module learns."""
        pooled = torch.stack([self._pool(block) for block in blocks], dim=2)  # (B, H, L) or (B, H, L, d)
        if self.shape.of_features:
            return self.attn_head_ffn(self.attn_feat_ffn(pooled).flatten(1)).view(pooled.shape[:3])
        return self.fc(pooled.flatten(1)).view(pooled.shape)

    def _pool(self, block: BlockOutput) -> Tensor:
        """``(B, H)`` of a block's maps, or ``(B, H, d)`` of what it gathered."""
        if self.shape.of_features:
            gathered = block.gathered.detach()
            pooled = gathered.amax(dim=1) if self.shape.kind == "feature_max" else gathered.mean(dim=1)  # (B, D)
            return pooled.view(len(pooled), -1, self.num_heads).transpose(1, 2)
        attention = block.attention.detach()
        return attention.amax(dim=(2, 3)) if self.shape.kind == "map_max" else attention.mean(dim=(2, 3))


def fuse_attention(blocks: Sequence[BlockOutput], weights: Tensor) -> Tensor:
    """Mean ``(B, n, n)`` over heads and blocks of their attention (detached) times ``weights`` (B, H, L).

    Not normalised again: rows sum to the mean weight. In float32 whatever the precision around it.
    """
    batch, heads, layers = weights.shape
    size = blocks[0].attention.shape[2:]
    with torch.autocast(weights.device.type, enabled=False):
        fused = torch.zeros(batch, 1, size.numel(), device=weights.device)
        for layer, block in enumerate(blocks):
            attention = block.attention.detach().float().flatten(2)  # (B, H, n n)
            fused = torch.baddbmm(fused, weights[:, :, layer].float()[:, None], attention)
    return fused.reshape(batch, *size) / (heads * layers)
