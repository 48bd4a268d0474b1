"""Compute batch-norm's statistics over the whole batch, of which every process has a part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weaksam.models.ranks import ranks


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
