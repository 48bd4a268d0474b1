"""Keep batch-norm's statistics those of one process where every process has a part of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from weaksam.models.ranks import Ranks, ranks, ranks_are


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Torch's batch-norm, whose statistics in training are those of all ranks whose photos count.

    On one rank it is torch's own. Torch's ``SyncBatchNorm`` wants GPUs.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, h, w)`` of this rank, normalised by the mean and variance over all ranks."""
        group = ranks()
        if not self.training or group.size == 1:
            normalised: Tensor = super().forward(input)
            return normalised
        assert self.momentum is not None and self.running_mean is not None and self.running_var is not None
        num = group.total(input.numel() // input.shape[1])
        mean = group.sum_with_gradient(input.sum((0, 2, 3))) / num
        centred = input - mean[:, None, None]
        variance = group.sum_with_gradient(centred.square().sum((0, 2, 3))) / num
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * num / max(num - 1, 1)).to(self.running_var), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def share_batch_norm(module: nn.Module) -> nn.Module:
    """Let every batch-norm in ``module`` take the statistics of all ranks, in place; weights stay as they are."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SharedBatchNorm2d
    return module


@contextmanager
def each_photo_apart(module: nn.Module) -> Iterator[None]:
    """Inside, each rank passes its photos through ``module`` one by one, each normalised by its own statistics.

    Ranks may do another number of passes. At the end the running statistics of every batch-norm are those that one
    process has after all passes, of the first rank's photos first; those that do not count have no part in it. A pass
    p moves them to (1 - m) x + m p, so a rank adds what its own passes moved them by, times (1 - m) for each pass of
    the ranks behind it.
    """
    group = ranks()
    if group.size == 1:
        yield
        return
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None]
    before = [_statistics(norm) for norm in norms]
    counted = [_passes(norm) for norm in norms]
    with ranks_are(Ranks()):
        yield
    own = [(_passes(norm) - num) * group.counts for norm, num in zip(norms, counted, strict=True)]
    of_ranks = group.of_all(own)
    for number, norm in enumerate(norms):
        assert norm.momentum is not None and norm.num_batches_tracked is not None
        keep, passes = 1 - norm.momentum, [of_rank[number] for of_rank in of_ranks]
        moved = (_statistics(norm) - keep ** own[number] * before[number]) * keep ** sum(passes[group.rank + 1 :])
        mean, variance = group.sum(moved) + keep ** sum(passes) * before[number]
        norm.running_mean, norm.running_var = mean.clone(), variance.clone()  # the backward pass may want the old ones
        norm.num_batches_tracked.fill_(counted[number] + sum(passes))


def _statistics(norm: nn.BatchNorm2d) -> Tensor:
    """Running mean and variance ``(2, C)``."""
    assert norm.running_mean is not None and norm.running_var is not None
    return torch.stack([norm.running_mean, norm.running_var]).clone()


def _passes(norm: nn.BatchNorm2d) -> int:
    """Passes that moved them."""
    assert norm.num_batches_tracked is not None
    return int(norm.num_batches_tracked)
