"""Pad the true boxes of a batch to tensors that detectors with object queries are taught by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert

from weaksam.models.detectors.ignored_regions import IGNORED
from weaksam.models.full_precision import full_precision
from weaksam.models.ranks import ranks
from weaksam.structures.devices import moved_together


@dataclass(frozen=True)
class QueryTargets:
    """True boxes of B photos, padded to the most that a photo has (T, or I of those to ignore); either may be 0.

    T is that of the whole batch where several processes compute it.
    """

    labels: Tensor
    """Class from 0 ``(B, T)``; 0 where there is none."""
    boxes: Tensor
    """Centre x, y, width, height ``(B, T, 4)`` as shares of the photo; a small box where there is none."""
    present: Tensor
    """Bool ``(B, T)``: where there is a box."""
    ignored: Tensor
    """Regions to ignore, x1, y1, x2, y2 ``(B, I, 4)`` as shares of the photo; without area where there is none."""
    counts: tuple[int, ...]
    """Boxes of each photo."""

    @classmethod
    def of(
        cls, targets: Sequence[Mapping[str, Tensor]], photo_sizes: Sequence[tuple[int, int]], device: torch.device
    ) -> QueryTargets:
        """From torchvision's targets: ``boxes`` (N, 4) xyxy in pixels, ``labels`` (N,) from 1 or `IGNORED`.

        The targets are best on the CPU: what they hold is read here, and goes to ``device`` in one copy.
        """
        boxes, labels, regions = [], [], []
        for target, (height, width) in zip(targets, photo_sizes, strict=True):
            shares = full_precision(target["boxes"]).cpu() / torch.tensor([width, height, width, height])
            of_photo = target["labels"].cpu()
            is_ignored = of_photo == IGNORED
            regions.append(shares[is_ignored])
            boxes.append(box_convert(shares[~is_ignored], "xyxy", "cxcywh"))
            labels.append(of_photo[~is_ignored] - 1)
        counts = tuple(map(len, boxes))
        most = ranks().largest(max(counts, default=0))
        present = torch.arange(most) < torch.tensor(counts)[:, None]
        tensors = (_padded(labels, 0, most), _padded(boxes, 0.5, most), present, _padded(regions, 0.0))
        return cls(*moved_together(list(tensors), device), counts)


def _padded(rows: Sequence[Tensor], filling: float, least: int = 0) -> Tensor:
    """Rows ``(N_i, ...)`` of each photo in one tensor ``(B, max N_i, ...)``, of ``least`` rows at least."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=filling)
    lacking = max(0, least - padded.shape[1])
    return torch.cat([padded, padded.new_full((len(padded), lacking, *padded.shape[2:]), filling)], dim=1)
