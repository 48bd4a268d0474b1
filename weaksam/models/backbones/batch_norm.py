"""Freeze batch-norm, fold it into convolutions, or give it statistics, in networks that do not train it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch-norm by torchvision's frozen one with the same statistics."""
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        frozen.load_state_dict({k: v for k, v in module.state_dict().items() if k != "num_batches_tracked"})
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child))
    return module


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold every frozen batch-norm that follows a convolution into it, in place; the outputs stay the same.

    Each convolution gains a bias and each folded batch-norm becomes an identity, which saves one pass over memory.
    """
    previous: tuple[nn.Module, str] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, FrozenBatchNorm2d) and previous is not None:
            _fold(getattr(*previous), child)
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norm(child)
        previous = (module, name) if isinstance(child, nn.Conv2d) else None
    return module


@torch.no_grad()
def calibrate(network: nn.Module) -> None:
    """Take the batch-norm statistics of random weights from smooth noise: frozen at 0 and 1 no signal would pass."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
    noise = nn.functional.interpolate(torch.randn(4, 3, 16, 16), size=(128, 128), mode="bilinear")
    getattr(network, "features", network).train()(noise)


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
    """Make ``conv`` compute what ``norm(conv(x))`` did."""
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
