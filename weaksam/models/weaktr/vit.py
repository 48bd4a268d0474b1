"""Run a plain vision transformer (DeiT, DINOv2 or DINOv3) and return the attention of its blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.models.photo_draws import photo_rand


@dataclass(frozen=True)
class VitShape:
    """The sizes and variants of a transformer's parts.

    ``grid`` is the side of the square of learned positions, 0 for a network with rotary ones (DINOv3).
    ``num_registers`` tokens take part beside the class tokens and the patches; no map is read from them.
    """

    width: int = 384
    depth: int = 12
    num_heads: int = 6
    patch_size: int = 16
    grid: int = 14
    mlp_width: int = 1536
    num_registers: int = 0
    norm_eps: float = 1e-6
    layer_scale: bool = False
    gated_mlp: bool = False
    activation: Literal["gelu", "silu"] = "gelu"
    rope_theta: float | None = None


class BlockOutput(NamedTuple):
    """Tokens ``(B, n, D)``, attention ``(B, H, n, n)`` whose rows sum to 1, what it gathered ``(B, n, D)``."""

    tokens: Tensor
    attention: Tensor
    gathered: Tensor


class Attention(nn.Module):
    """Multi-head self-attention that also returns its weights."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """What the tokens ``(B, n, D)`` gather from each other, and the attention ``(B, H, n, n)``.

        ``rotation`` turns queries and keys of the last tokens, the patches, to their positions.
        """
        batch, count, width = tokens.shape
        shape = (batch, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = self.qkv(tokens).reshape(shape).permute(2, 0, 3, 1, 4)  # (B, H, n, d) each
        if rotation is not None:
            query, key = rotate_patches(query, *rotation), rotate_patches(key, *rotation)
        attention = ((query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)).softmax(dim=3)
        gathered = attention.to(value.dtype) @ value
        return self.proj(gathered.transpose(1, 2).reshape(batch, count, width)), attention


class Mlp(nn.Module):
    """Two linear layers; ``gate`` multiplies the hidden one where the network has it (SwiGLU)."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.mlp_width)
        self.gate = nn.Linear(shape.width, shape.mlp_width) if shape.gated_mlp else None
        self.fc2 = nn.Linear(shape.mlp_width, shape.width)
        self.activation = F.silu if shape.activation == "silu" else F.gelu

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, n, D)`` to the same."""
        if self.gate is None:
            return self.fc2(self.activation(self.fc1(tokens)))
        return self.fc2(self.activation(self.gate(tokens)) * self.fc1(tokens))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, n, D)`` times the factors."""
        return tokens * self.gamma


class Block(nn.Module):
    """Attention and MLP, each normalised first and added; ``drop_path`` is the chance to skip them in training."""

    def __init__(self, shape: VitShape, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.attn = Attention(shape.width, shape.num_heads)
        self.ls1 = LayerScale(shape.width) if shape.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.mlp = Mlp(shape)
        self.ls2 = LayerScale(shape.width) if shape.layer_scale else nn.Identity()

    def forward(self, tokens: Tensor, rotation: tuple[Tensor, Tensor] | None) -> BlockOutput:
        """One block on ``(B, n, D)``."""
        gathered, attention = self.attn(self.norm1(tokens), rotation)
        tokens = tokens + self._maybe_drop(self.ls1(gathered))
        tokens = tokens + self._maybe_drop(self.ls2(self.mlp(self.norm2(tokens))))
        return BlockOutput(tokens, attention, gathered)

    def _maybe_drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth per image (Huang et al., ECCV 2016): in training drop a branch, else make up for it."""
        if not self.training or self.drop_path == 0:
            return branch
        kept = photo_rand((len(branch), 1, 1), branch.device) >= self.drop_path
        return branch * kept / (1 - self.drop_path)


class PatchEmbed(nn.Module):
    """One token per patch, by a convolution as large as its step."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)


class VisionTransformer(nn.Module):
    """C class tokens, registers and patches through ``depth`` blocks.

    Parameters carry the names of the published WeakTr (and of timm): ``cls_token`` (1, C, D), ``pos_embed``
    (1, C + grid^2, D), ``blocks.3.attn.qkv.weight``; registers are ``reg_token`` (1, R, D), their positions, if they
    had any, already added. ``norm`` belongs to every checkpoint and is not applied, as published.
    """

    def __init__(self, shape: VitShape, num_classes: int, drop_path: float = 0.0) -> None:
        """``drop_path`` rises linearly from 0 in the first block to this in the last.

        Raises:
            UserError: the width does not divide into heads.
        """
        super().__init__()
        if shape.width % shape.num_heads:
            raise UserError(
                f"wanted a width that {shape.num_heads} heads can share, found {shape.width}: change num_heads or width"
            )
        self.shape, self.num_classes = shape, num_classes
        self.patch_embed = PatchEmbed(shape.width, shape.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, num_classes, shape.width))
        if shape.num_registers:
            self.reg_token = nn.Parameter(torch.zeros(1, shape.num_registers, shape.width))
        if shape.grid:
            self.pos_embed = nn.Parameter(torch.zeros(1, num_classes + shape.grid**2, shape.width))
        rates = [drop_path * block / max(1, shape.depth - 1) for block in range(shape.depth)]
        self.blocks = nn.ModuleList([Block(shape, rate) for rate in rates])
        self.norm = nn.LayerNorm(shape.width, eps=shape.norm_eps).requires_grad_(False)

    def embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens ``(B, C + R + h w, D)`` in that order and the grid (h, w) of the pixels ``(B, 3, H, W)``."""
        patches = self.patch_embed.proj(pixels)  # (B, D, h, w)
        grid = (patches.shape[2], patches.shape[3])
        patches = patches.flatten(2).transpose(1, 2)
        classes: Tensor = self.cls_token
        if self.shape.grid:
            patches = patches + resize_positions(self.pos_embed[:, self.num_classes :], grid)
            classes = classes + self.pos_embed[:, : self.num_classes]
        prefix = torch.cat([classes, self.reg_token], dim=1) if self.shape.num_registers else classes
        return torch.cat([prefix.expand(len(pixels), -1, -1).to(patches.dtype), patches], dim=1), grid

    def rotation(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the rotary positions of a grid (h, w); None for learned positions."""
        if self.shape.rope_theta is None:
            return None
        return rotary_angles(grid, self.shape.width // self.shape.num_heads, self.shape.rope_theta, device)


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Learned positions ``(1, N, D)`` of a square grid, resized bicubically to ``grid`` (h, w): ``(1, h w, D)``.

    As published (DINO, Caron et al., ICCV 2021), the step is taken 0.1 patches short so that rounding cannot lose a
    row; the same grid gives the positions untouched.
    """
    side = math.isqrt(positions.shape[1])
    if grid == (side, side):
        return positions
    square = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
    resized = F.interpolate(square.float(), scale_factor=factors, mode="bicubic", align_corners=False)
    assert resized.shape[2:] == grid, (resized.shape, grid)
    return resized.flatten(2).transpose(1, 2).to(positions.dtype)


def rotary_angles(grid: tuple[int, int], depth: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``(h w, depth)`` of patch centres at -1..1 of each side (DINOv3, Simeoni et al., 2025)."""
    frequencies = theta ** -torch.arange(0, 1, 4 / depth, device=device)  # (depth / 4,)
    rows = (torch.arange(grid[0], device=device) + 0.5) / grid[0] * 2 - 1
    columns = (torch.arange(grid[1], device=device) + 0.5) / grid[1] * 2 - 1
    centres = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)  # (h w, 2)
    angles = (2 * math.pi * centres[:, :, None] * frequencies).flatten(1).tile(2)
    return angles.cos(), angles.sin()


def rotate_patches(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Queries or keys ``(B, H, n, d)`` with the last ``len(cosines)`` tokens turned to their positions."""
    first = vectors.shape[2] - len(cosines)
    patches = vectors[:, :, first:]
    left, right = patches.chunk(2, dim=-1)
    turned = patches * cosines + torch.cat([-right, left], dim=-1) * sines
    return torch.cat([vectors[:, :, :first], turned.to(vectors.dtype)], dim=2)
