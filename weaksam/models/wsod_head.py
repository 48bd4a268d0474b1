"""The weakly supervised detection head: RoI features to WSDDN's two streams and OICR's refinement branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from weaksam.models.wsddn import wsddn_scores


class HeadOutput(NamedTuple):
    """``scores`` (R, C) of WSDDN and ``refine``: the logits (R, C + 1) of each branch, background in column 0.

    ``deltas``: the box offsets (R, C + 1, 4) of each branch; empty without box regression.
    """

    scores: Tensor
    refine: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...] = ()


class WsodHead(nn.Module):
    """RoIAlign, two hidden layers, then WSDDN's two streams and the refinement branches.

    It pools from maps of ``channels`` principal components of ``source_channels`` frozen features; the components
    travel with the weights as the buffers ``directions`` (channels, source_channels) and ``centre``
    (source_channels,). Output layers start from N(0, 0.01) as in OICR. With ``box_regression`` every branch also
    tells a box offset per class, from layers that start from N(0, 0.001).
    """

    directions: Tensor
    centre: Tensor

    def __init__(
        self,
        source_channels: int,
        channels: int,
        num_classes: int,
        *,
        num_branches: int = 3,
        roi_size: int = 5,
        hidden: int = 512,
        dropout: float = 0.5,
        box_regression: bool = False,
    ) -> None:
        super().__init__()
        self.roi_size = roi_size
        self.register_buffer("directions", torch.zeros(channels, source_channels))
        self.register_buffer("centre", torch.zeros(source_channels))
        self.hidden = nn.Sequential(
            nn.Linear(channels * roi_size**2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.class_stream = nn.Linear(hidden, num_classes)
        self.detection_stream = nn.Linear(hidden, num_classes)
        self.refine = nn.ModuleList(nn.Linear(hidden, num_classes + 1) for _ in range(num_branches))
        for layer in (self.class_stream, self.detection_stream, *self.refine):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        num_offsets = 4 * (num_classes + 1)
        self.boxes = nn.ModuleList(nn.Linear(hidden, num_offsets) for _ in range(num_branches * box_regression))
        for layer in self.boxes:
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, boxes: Tensor) -> HeadOutput:
        """Score RoIs ``boxes`` (R, 4) xyxy in cells of one map ``features`` (D, h, w); R = 0 gives empty tensors."""
        rois = roi_align(features[None].float(), [boxes], self.roi_size, sampling_ratio=2, aligned=True)
        hidden = self.hidden(rois.flatten(1))
        scores = wsddn_scores(self.class_stream(hidden), self.detection_stream(hidden))
        deltas = tuple(branch(hidden).unflatten(1, (-1, 4)) for branch in self.boxes)
        return HeadOutput(scores, tuple(branch(hidden) for branch in self.refine), deltas)


def mean_class_probabilities(refine: Sequence[Tensor]) -> Tensor:
    """Mean over the branches of the class probabilities ``(R, C)``, background left out (OICR's test score)."""
    return torch.stack([logits.softmax(dim=1) for logits in refine]).mean(dim=0)[:, 1:]
