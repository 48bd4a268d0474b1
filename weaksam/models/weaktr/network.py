"""Compute class maps with WeakTr, a plain vision transformer with a token per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from weaksam.config import Settings, UserError
from weaksam.models.weaktr.fusion import AttentionFusion, Fusion, FusionShape, fuse_attention
from weaksam.models.weaktr.vit import BlockOutput, VisionTransformer, VitShape


class WeakTrSettings(Settings):
    """Which transformer reads the photos and where its weights come from.

    With ``weights`` of any kind the transformer's shape (width, depth, heads, patch, positions) is read from them.
    """

    weights: str = Field(
        "none",
        description="none (random), a file (DeiT or a trained WeakTr), or a folder or hub id of a ViT, DeiT, DINOv2 "
        "or DINOv3 of transformers",
    )
    width: int = Field(384, ge=8, description="channels of a token without weights; 384 is DeiT-S, 192 DeiT-Ti")
    depth: int = Field(12, ge=1, le=64, description="blocks without weights")
    num_heads: int | None = Field(None, ge=1, description="attention heads; none: one per 64 channels")
    patch_size: int = Field(16, ge=2, le=64, description="side of a patch without weights, pixels")
    image_size: int = Field(224, ge=16, description="side of the square that learned positions are for, pixels")
    fusion: Fusion = Field("feature_max", description="what adaptive attention fusion pools; map_mean sees no image")
    reduction: int = Field(8, ge=1, description="heads times blocks per hidden unit of the fusion")
    feature_reduction: int = Field(8, ge=1, description="channels of a head per hidden unit, feature fusions only")
    drop_path: float = Field(0.1, ge=0, lt=1, description="chance to skip the last block's branches in training")
    class_slots: Literal["same", "coco"] = Field(
        "same", description="coco: the checkpoint has 90 classes (category_id - 1), the photos COCO's 80"
    )


@dataclass(frozen=True)
class WeakTrOutput:
    """Logits and maps of B images, on a grid of h x w patches: C classes, L blocks, H heads, M = h w.

    ``class_logits`` (B, C) mean of each class token, ``patch_logits`` (B, C) mean of the convolutional class map,
    ``fused_logits`` (B, C) mean of the fine map. ``coarse`` (B, C, h, w) class map cut at 0, ``fused_cross``
    (B, C, h, w) fused attention of class tokens to patches, ``fine`` (B, C, h, w) their product spread by
    ``affinity`` (B, M, M), the fused attention among patches. ``head_cross`` (B, L, H, C, h, w) the attention of class
    tokens to patches of every head, without the fusion's weights. All maps are >= 0 and carry no gradient.
    """

    class_logits: Tensor
    patch_logits: Tensor
    fused_logits: Tensor
    coarse: Tensor
    fused_cross: Tensor
    fine: Tensor
    affinity: Tensor
    head_cross: Tensor


class WeakTr(VisionTransformer):
    """Coarse, cross-attention and fine class maps (WeakTr, Zhu et al., 2023; docs/method.md, Clues).

    Takes ImageNet-normalised pixels; checkpoints that want others get theirs folded into the first layer.
    """

    def __init__(self, shape: VitShape, num_classes: int, fusion: FusionShape, drop_path: float = 0.1) -> None:
        super().__init__(shape, num_classes, drop_path)
        self.patch_size, self.fusion = shape.patch_size, fusion
        self.head = nn.Conv2d(shape.width, num_classes, 3, padding=1)
        self.adaptive_attention_fusion = AttentionFusion(shape, fusion)
        _initialise(self)

    def forward(self, pixels: Tensor) -> WeakTrOutput:
        """Maps and logits of normalised pixels ``(B, 3, H, W)`` of any size of at least a patch.

        Sides that are no multiple of the patch are resized to the nearest one (`fit_to_patches`), so that the maps
        cover the image from edge to edge. Deviation: the published network leaves out up to a patch less a pixel at
        the right and the bottom.

        Raises:
            UserError: a side is smaller than a patch.
        """
        size = fit_to_patches((pixels.shape[2], pixels.shape[3]), self.patch_size)
        if size != tuple(pixels.shape[2:]):
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
        tokens, grid = self.embed(pixels)
        rotation = self.rotation(grid, tokens.device)
        blocks: list[BlockOutput] = []
        for block in self.blocks:
            blocks.append(block(tokens, rotation))
            tokens = blocks[-1].tokens
        return self._read(blocks, grid)

    def _read(self, blocks: Sequence[BlockOutput], grid: tuple[int, int]) -> WeakTrOutput:
        """Logits and maps from the last block's tokens and every block's attention."""
        tokens, classes, first = blocks[-1].tokens, self.num_classes, self.num_classes + self.shape.num_registers
        shape = (len(tokens), classes, *grid)
        raw = self.head(tokens[:, first:].transpose(1, 2).unflatten(2, grid)).float()  # (B, C, h, w)
        coarse = raw.detach().relu()
        fused = fuse_attention(blocks, self.adaptive_attention_fusion(blocks))  # (B, n, n)
        cross = fused[:, :classes, first:].reshape(shape)
        affinity = fused[:, first:, first:]  # (B, M, M)
        fine = fine_maps(affinity, cross, coarse)
        heads = torch.stack([block.attention.detach()[:, :, :classes, first:] for block in blocks], dim=1)
        return WeakTrOutput(
            class_logits=tokens[:, :classes].float().mean(dim=2),
            patch_logits=raw.mean(dim=(2, 3)),
            fused_logits=fine.mean(dim=(2, 3)),
            coarse=coarse,
            fused_cross=cross.detach(),
            fine=fine.detach(),
            affinity=affinity.detach(),
            head_cross=heads.float().unflatten(4, grid),
        )


def fine_maps(affinity: Tensor, cross: Tensor, coarse: Tensor) -> Tensor:
    """Fine class maps ``(B, C, h, w)``: ``cross`` times ``coarse`` (both (B, C, h, w)), spread among patches.

    Each patch gets the sum of the products at all patches, weighted by its row of ``affinity`` (B, h w, h w), once and
    without normalising the rows (WeakTr).
    """
    product = (cross * coarse).flatten(2)  # (B, C, M)
    return (product @ affinity.transpose(1, 2)).reshape(cross.shape)


def fit_to_patches(size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """The multiples of ``patch_size`` nearest to ``size`` (H, W); halves are rounded up.

    Raises:
        UserError: a side is smaller than a patch.
    """
    if min(size) < patch_size:
        raise UserError(
            f"wanted an image of at least one patch, {patch_size} x {patch_size} pixels, found {size[1]} x {size[0]}: "
            "leave it out, or enlarge it"
        )
    height, width = ((side + patch_size // 2) // patch_size * patch_size for side in size)
    return height, width


@torch.no_grad()
def _initialise(model: nn.Module) -> None:
    """As published: linear layers, tokens and positions truncated normal of deviation 0.02; convolutions stay."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, tensor in model.named_parameters():
        if name in ("cls_token", "reg_token", "pos_embed"):
            nn.init.trunc_normal_(tensor, std=0.02)
