"""Run SAM's image encoder with fused attention: the same numbers, less memory traffic, optionally in bfloat16."""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional as F

from weaksam.sam.protocol import EncoderPrecision


class FusedEncoder:
    """Run ``encoder`` (whose weights stay where they are) with torch's scaled dot-product attention.

    ``precision``: bfloat16 computes the matrix products in it, under autocast. ``compiled``: through ``torch.compile``,
    for which the first photo takes a minute; photos have one fixed size here, so that it happens once.
    """

    def __init__(
        self, encoder: ImageEncoderViT, precision: EncoderPrecision = "float32", *, compiled: bool = False
    ) -> None:
        self.encoder = encoder
        self.precision = precision
        self.compiled = compiled
        self._run = torch.compile(self._forward) if compiled else self._forward

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalised, padded pixels ``(B, 3, S, S)`` -> features ``(B, C, S / 16, S / 16)`` in float32."""
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self._run(pixels).float()

    def _forward(self, pixels: Tensor) -> Tensor:
        x = self.encoder.patch_embed(pixels)
        if self.encoder.pos_embed is not None:
            x = x + self.encoder.pos_embed
        for block in self.encoder.blocks:
            x = _block(block, x)
        return self.encoder.neck(x.permute(0, 3, 1, 2))


def _block(block: Block, x: Tensor) -> Tensor:
    """One transformer block on ``(B, H, W, C)``, in windows where it has them."""
    shortcut, size = x, (x.shape[1], x.shape[2])
    x = block.norm1(x)
    if block.window_size > 0:
        x, padded = window_partition(x, block.window_size)
    x = _attention(block.attn, x)
    if block.window_size > 0:
        x = window_unpartition(x, block.window_size, padded, size)
    x = shortcut + x
    return x + block.mlp(block.norm2(x))


def _attention(attention: Attention, x: Tensor) -> Tensor:
    """Multi-head attention over the positions of ``(B, H, W, C)``, with SAM's decomposed relative positions."""
    b, h, w, _ = x.shape
    q, k, v = attention.qkv(x).reshape(b, h * w, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    bias = None
    if attention.use_rel_pos:
        rows = _relative_positions(h, attention.rel_pos_h).to(q.dtype)
        columns = _relative_positions(w, attention.rel_pos_w).to(q.dtype)
        placed = q.unflatten(2, (h, w))  # (B, heads, H, W, d)
        vertical = torch.einsum("bnhwd,hkd->bnhwk", placed, rows)
        horizontal = torch.einsum("bnhwd,wkd->bnhwk", placed, columns)
        bias = (vertical[..., :, None] + horizontal[..., None, :]).flatten(4).flatten(2, 3)  # (B, heads, H W, H W)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=attention.scale)
    return attention.proj(mixed.transpose(1, 2).reshape(b, h, w, -1))


def _relative_positions(length: int, table: Tensor) -> Tensor:
    """Embedding ``(length, length, d)`` of each position seen from each, from SAM's ``table`` (2 * L - 1, d).

    As segment-anything's ``get_rel_pos``, but with indices on the table's own device: a GPU is not waited for.
    """
    if len(table) != 2 * length - 1:
        table = F.interpolate(table.T[None], size=2 * length - 1, mode="linear")[0].T
    places = torch.arange(length, device=table.device)
    return table[places[:, None] - places + length - 1]
