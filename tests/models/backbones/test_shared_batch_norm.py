"""Running statistics of batch-norm where every process passes other photos through it are those of one process."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.ranks import on_ranks
from weaksam.models.backbones.shared_batch_norm import each_photo_apart, share_batch_norm
from weaksam.models.ranks import ranks

SHARES = ((0, 2), (2, 5), (5, 6), (6, 6))
"""First and last photo of each rank; the last one has none of its own and passes the first, which does not count."""


def passed(shares: tuple[tuple[int, int], ...]) -> list[np.ndarray]:
    """The batch-norm's buffers, and what it makes of the photos of this rank, after this rank's passes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=0.3)).double()
    share_batch_norm(network)
    photos = torch.randn(6, 1, 3, 4, 5, dtype=torch.float64) * torch.arange(1, 7).reshape(6, 1, 1, 1, 1)
    begin, end = shares[ranks().rank]
    with ranks().counting(end > begin), each_photo_apart(network):
        answers = [network(photo) for photo in (photos[begin:end] if end > begin else photos[:1])]
    return [value.numpy().copy() for value in (*network.buffers(), torch.stack(answers).detach())]


@pytest.mark.slow
def test_photos_one_by_one_on_several_ranks_leave_the_statistics_of_one_process(tmp_path: Path) -> None:
    *alone, answers = passed(((0, 6),))
    assert alone[2] == 6 and not np.allclose(alone[0], 0)
    for share, (*together, own) in zip(SHARES, on_ranks(4, tmp_path, passed, SHARES), strict=True):
        for one_process, several in zip(alone, together, strict=True):
            assert np.allclose(one_process, several, rtol=1e-12)
        assert np.allclose(own, answers[slice(*share)] if share[1] > share[0] else answers[:1], rtol=1e-12)
