"""Segment the one concealed foreground of a photo: backbone, texture blocks, grouping, fusion, prior and decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from weaksam.config import Settings
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.pyramid import pyramid_maps
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.concealed.blocks import ResidualAttentionBlock, TextureBlock, TopDownFusion, conv_norm, resized
from weaksam.models.concealed.global_prior import GlobalPrior
from weaksam.models.concealed.grouping import MultiScaleGrouping

NUM_OUTPUTS = 5
"""Maps of logits: of the prior, and of the decoder's four stages."""


class ConcealedNetworkSettings(Settings):
    """How wide the network is, and whether it groups."""

    channels: int = Field(128, ge=16, description="width C of neck and decoder; published: 128")
    grouping: bool = Field(True, description="group the deepest map around prototypes (multi-scale feature grouping)")


class ReversedStage(nn.Module):
    """Refine a prior: one branch sees the map where the prior says foreground, the other where it says background."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.foreground, self.background = ResidualAttentionBlock(channels), ResidualAttentionBlock(channels)
        self.joined = conv_norm(2 * channels, channels, 3)
        self.head = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, maps: Tensor, prior: Tensor) -> Tensor:
        """Logits ``(B, 1, h, w)`` of ``maps (B, C, h, w)`` and the ``prior`` logits of any size."""
        share = resized(prior, (maps.shape[-2], maps.shape[-1])).sigmoid()
        branches = [self.foreground(maps * share + maps), self.background(maps * (1 - share) + maps)]
        return self.head(self.joined(torch.cat(branches, dim=1)))


class ConcealedNetwork(nn.Module):
    """WS-SAM's network (He et al., NeurIPS 2023), written from its description, for photos of any size.

    ``backbone`` gives four maps, the shallowest first. Backbones of this package have a frozen batch-norm; everything
    behind them has its own, which trains.
    """

    def __init__(self, backbone: nn.Module, in_channels: Sequence[int], settings: ConcealedNetworkSettings) -> None:
        super().__init__()
        width = settings.channels
        self.backbone = backbone
        self.textures = nn.ModuleList([TextureBlock(channels, width) for channels in in_channels])
        self.groups = settings.grouping
        self.grouping = MultiScaleGrouping(width) if settings.grouping else nn.Identity()
        self.fusions = nn.ModuleList([TopDownFusion(width) for _ in in_channels[1:]])  # deepest first
        self.prior = GlobalPrior(in_channels[-1], width)
        self.stages = nn.ModuleList([ReversedStage(width) for _ in in_channels])  # deepest first

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Five maps of logits ``(B, 1, H, W)`` of normalised images ``(B, 3, H, W)``, the last of which is the answer.

        In order: the prior, then the decoder's stages from the deepest on.
        """
        size = (images.shape[-2], images.shape[-1])
        taps = list(self.backbone(images).values())
        textures = [block(tap) for block, tap in zip(self.textures, taps, strict=True)]
        flow = self.grouping(textures[-1])
        read = [flow]  # what the stages see, deepest first
        for fusion, shallow in zip(self.fusions, reversed(textures[:-1]), strict=True):
            flow, of_stage = fusion(flow, shallow)
            read.append(of_stage)
        logits = [self.prior(taps[-1])]
        for stage, maps in zip(self.stages, read, strict=True):
            logits.append(stage(maps, logits[-1]))
        return tuple(resized(of_stage, size) for of_stage in logits)


def build_concealed_network(backbone: BackboneSettings, settings: ConcealedNetworkSettings) -> ConcealedNetwork:
    """The network on a backbone's maps of stride 4, 8, 16 and 32.

    Raises `UserError` for weights that cannot be had or do not fit.
    """
    features = build_features(backbone, dilate=False, maps=pyramid_maps(backbone.name, "full"), frozen=False)
    return ConcealedNetwork(features, list(features.channels.values()), settings)
