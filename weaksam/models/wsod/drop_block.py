"""Hide the parts of a RoI's features that the detector relies on most, by a learnt adversary (Concrete DropBlock)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.models.full_precision import full_precision
from weaksam.models.photo_draws import photo_rows
from weaksam.models.ranks import ranks

_NOISE_EPS = 1e-7


class BatchNormOverRanks(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all cells that the processes of a batch hold together."""

    def forward(self, input: Tensor) -> Tensor:
        """``input`` (R, C, h, w) normalised; alone as torch does."""
        if ranks().size == 1 or not self.training:
            return super().forward(input)
        exact = full_precision(input)
        num = ranks().total(exact[:, 0].numel())
        mean = ranks().sum_with_gradient(exact.sum((0, 2, 3))) / num
        centred = exact - mean[:, None, None]
        variance = ranks().sum_with_gradient(centred.square().sum((0, 2, 3))) / num
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class ConcreteDropBlock(nn.Module):
    """Hide learned blocks of cells in RoI features ``(R, C, s, s)`` while training; change nothing otherwise.

    Concrete DropBlock of MIST (Ren et al., CVPR 2020; ``docs/method.md, MIST``). A residual block reads
    the features, detached, and gives every cell a drop probability of at most ``drop_rate / block_size**2``. A binary
    concrete sample of ``temperature`` (Maddison et al., ICLR 2017) decides; each dropped cell drops the
    ``block_size`` x ``block_size`` cells around it, in all channels. What remains is multiplied by the number of cells
    of all RoIs of the call over the number that remain (as DropBlock, Ghiasi et al., NeurIPS 2018), so that the mean
    stays; if nothing remains, all is 0.

    Train it to *raise* the detector's losses, with an optimiser of its own: a second forward pass, then a step on
    ``-weight * losses``, only for these weights (MIST's weight is 0.01). The detector's own backward pass leaves
    gradients here, too: zero them first.

    Deviations (ours): one logit per cell, as the two of the release differ by one number; the blocks grow before the
    sample is rounded, which drops the same cells and lets the gradient reach the cell that made the block; batch
    normalisation keeps no running statistics, as nothing reads them and a second pass would count twice. From logit
    to mask all is float32.

    :raises ValueError: ``block_size`` is not odd, ``drop_rate`` not in (0, 1], or ``temperature`` not above 0.
    """

    def __init__(
        self, channels: int, *, block_size: int = 3, drop_rate: float = 0.3, temperature: float = 0.01
    ) -> None:
        super().__init__()
        if block_size < 1 or block_size % 2 == 0:
            raise ValueError(f"block_size must be odd, so that a block has a middle, but is {block_size}")
        if not 0 < drop_rate <= 1 or temperature <= 0:
            raise ValueError(f"drop_rate must be in (0, 1], temperature above 0, but are {drop_rate} and {temperature}")
        self.block_size, self.drop_rate, self.temperature = block_size, drop_rate, temperature
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            BatchNormOverRanks(channels, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 3, padding=1, bias=False),
            BatchNormOverRanks(1, track_running_stats=False),
        )
        self.shortcut = nn.Conv2d(channels, 1, 1)

    def forward(self, rois: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """``rois`` (R, C, s, s) with blocks hidden and the rest scaled up, in their dtype.

        Unchanged in evaluation, without RoIs, and if a single cell is all there is, which cannot be normalised. The
        random numbers are drawn photo by photo (`draws_of_photos`), ``counts`` of the RoIs being of one photo after
        another (None: all of one). What depends on all RoIs depends on those of all processes that compute a batch.
        """
        if not self.training or ranks().total(rois[:, 0].numel()) < 2:
            return rois
        seen = rois.detach()
        logits = self.residual(seen) + self.shortcut(seen)  # (R, 1, s, s)
        log_odds = drop_log_odds(logits, self.drop_rate / self.block_size**2)
        noise = photo_rows(log_odds.detach(), [len(rois)] if counts is None else counts)
        keep = 1 - sample_blocks(log_odds, self.block_size, self.temperature, noise)
        return rois * (keep * rescale(keep)).to(rois.dtype)


def drop_log_odds(logits: Tensor, most: float) -> Tensor:
    """``log(p / (1 - p))`` float32 of the drop probability ``p = most * sigmoid(logits)``, finite for any logit."""
    log_p = F.logsigmoid(full_precision(logits)) + math.log(most)
    return log_p - torch.log1p(-log_p.exp().clamp(max=1 - _NOISE_EPS))


def sample_blocks(log_odds: Tensor, block_size: int, temperature: float, noise: Tensor | None = None) -> Tensor:
    """Mask ``(R, 1, s, s)``, 1 where dropped, else 0, whose gradient is that of its relaxed sample (straight-through).

    ``log_odds`` (R, 1, s, s) that a cell is dropped and its block with it; logistic noise makes the sample, of uniform
    numbers ``noise`` of the same shape or of torch's global ones.
    """
    uniform = torch.rand_like(log_odds) if noise is None else noise
    relaxed = grow_blocks((log_odds + uniform.logit(eps=_NOISE_EPS)) / temperature, block_size)
    soft = relaxed.sigmoid()
    return (relaxed > 0).to(soft.dtype) + (soft - soft.detach())  # the bracket is 0 and carries the gradient


def grow_blocks(values: Tensor, block_size: int) -> Tensor:
    """The largest of the ``block_size`` x ``block_size`` cells around each cell of ``values`` (R, 1, s, s)."""
    return F.max_pool2d(values, block_size, stride=1, padding=block_size // 2)


def rescale(keep: Tensor) -> Tensor:
    """Number of cells over how many ``keep`` (R, 1, s, s) in {0, 1} keeps, a scalar; finite where it keeps none.

    Of all processes that compute a batch.
    """
    return ranks().total(keep.numel()) / ranks().sum_with_gradient(keep.sum()).clamp(min=1.0)
