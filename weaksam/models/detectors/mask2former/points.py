"""Read maps and masks between their pixels, at points drawn anywhere or where a mask is uncertain."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.models.detectors.mask2former.settings import MaskLossSettings


class LossPoints(NamedTuple):
    """Points, x and y in [0, 1] of the frame, that the losses of M pairs of masks may be computed at."""

    candidates: Tensor
    """``(M, oversampling * num_points, 2)``, of which the most uncertain are kept."""
    anywhere: Tensor
    """``(M, (1 - uncertain_share) * num_points, 2)``, which are kept all."""


def draw_loss_points(
    num_pairs: int, settings: MaskLossSettings, device: torch.device, generator: torch.Generator | None = None
) -> LossPoints:
    """Uniform points for ``num_pairs`` pairs of a photo, from its ``generator`` or torch's global random numbers."""
    num_anywhere = settings.num_points - num_uncertain(settings)
    num_candidates = int(settings.num_points * settings.oversampling)
    candidates = torch.rand(num_pairs, num_candidates, 2, device=device, generator=generator)
    return LossPoints(candidates, torch.rand(num_pairs, num_anywhere, 2, device=device, generator=generator))


def num_uncertain(settings: MaskLossSettings) -> int:
    """How many points of a pair lie where its mask is uncertain."""
    return int(settings.uncertain_share * settings.num_points)


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """Values ``(N, C, P)`` of ``maps`` (N, C, h, w), interpolated linearly, at ``points`` (N, P, 2).

    Points are x and y as shares of the width and height; beyond the map's border it is 0.
    """
    return F.grid_sample(maps, (2 * points[:, :, None] - 1).to(maps), align_corners=False)[..., 0]


def loss_points(logits: Tensor, points: LossPoints, uncertain: int) -> Tensor:
    """Points ``(M, P, 2)``: the ``uncertain`` candidates at which ``logits`` (M, 1, h, w) are nearest 0, then the rest.

    No gradient (PointRend's sampling, Kirillov et al., CVPR 2020, section 3.3).
    """
    with torch.no_grad():
        uncertainty = -at_points(logits, points.candidates)[:, 0].abs()
        chosen = uncertainty.topk(uncertain, dim=1).indices
        return torch.cat([points.candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), points.anywhere], dim=1)
