"""Draw Mask2Former's first weights as published: transformers leaves most of them at a deviation of 0.02.

With those every mask begins next to 0, and no point of the deformable attention looks anywhere but at its own place.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoder,
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
)

_JOINED = math.sqrt(0.5)
"""Gain of a query, key or value layer alone where the three are drawn as one matrix."""
_SELF_ATTENTION = ("self_attn.q_", "self_attn.k_", "self_attn.v_")


@torch.no_grad()
def draw_first_weights(
    pixels: Mask2FormerPixelDecoder, transformer: Mask2FormerMaskedAttentionDecoder, classes: nn.Linear
) -> None:
    """Draw all but norms, embeddings and queries anew, in place (Xavier's rule; Deformable DETR's for its attention).

    Layers of classes and masks are drawn as torch draws linear layers.
    """
    for module in pixels.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in pixels.encoder.layers:
        _draw_deformable(layer.self_attn)
        nn.init.xavier_uniform_(layer.fc1.weight)
        nn.init.xavier_uniform_(layer.fc2.weight)
    for layer in transformer.layers:
        for name, parameter in layer.named_parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter, gain=_JOINED if name[:12] in _SELF_ATTENTION else 1.0)
    for module in (*transformer.mask_predictor.modules(), classes):
        if isinstance(module, nn.Linear):
            module.reset_parameters()


def _draw_deformable(attention: Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention) -> None:
    """Heads look in evenly spread directions, point by point one cell further; all points count alike."""
    angles = torch.arange(attention.n_heads) * (2 * math.pi / attention.n_heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, attention.n_points + 1)
    offsets = directions[:, None, None] * steps[:, None]  # (heads, 1, points, 2)
    nn.init.zeros_(attention.sampling_offsets.weight)
    attention.sampling_offsets.bias.copy_(offsets.expand(-1, attention.n_levels, -1, -1).reshape(-1))
    nn.init.zeros_(attention.attention_weights.weight)
    nn.init.zeros_(attention.attention_weights.bias)
    for linear in (attention.value_proj, attention.output_proj):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
