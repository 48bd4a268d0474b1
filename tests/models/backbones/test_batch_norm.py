"""Folding batch-norm into convolutions changes no output."""

import torch
from torchvision.ops.misc import FrozenBatchNorm2d

from weaksam.models.backbones.batch_norm import fold_batch_norm


@torch.inference_mode()
def test_folding_changes_nothing_but_the_number_of_modules():
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(4)
    for buffer in norm.buffers():
        torch.nn.init.uniform_(buffer, 0.5, 2.0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), norm, torch.nn.ReLU())
    images = torch.randn(1, 3, 9, 9)
    before = plain(images)
    folded = fold_batch_norm(plain)
    torch.testing.assert_close(folded(images), before, rtol=1e-5, atol=1e-5)
    assert isinstance(folded[1], torch.nn.Identity) and folded[0].bias is not None
