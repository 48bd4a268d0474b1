"""Compute WSDDN's two streams and OICR's refinement branches from RoI features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weaksam.models.full_precision import full_precision
from weaksam.models.photo_draws import photo_dropout
from weaksam.models.roi.box_deltas import mirrored_deltas
from weaksam.models.wsod.wsddn import wsddn_scores
from weaksam.structures.devices import moved_together


class HeadOutput(NamedTuple):
    """``scores`` (R, C) of WSDDN and ``refine``: the logits (R, C + 1) of each branch, background in column 0.

    ``scores`` are (R, C + 1), background in column 0, where WSDDN's streams have a background column. ``deltas``: the
    box offsets (R, C + 1, 4) of each branch; empty without box regression.
    """

    scores: Tensor
    refine: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...] = ()

    @property
    def class_scores(self) -> Tensor:
        """WSDDN's scores ``(R, C)`` of the classes, without background."""
        num_classes = self.refine[0].shape[1] - 1
        return self.scores[:, -num_classes:]

    def in_photo(self, mirrored: bool) -> HeadOutput:
        """The same with the box offsets of the photo, where they belong to its mirror image."""
        return self._replace(deltas=tuple(map(mirrored_deltas, self.deltas))) if mirrored else self

    def on(self, device: torch.device) -> HeadOutput:
        """The same with all tensors on ``device``, in one copy."""
        scores, *rest = moved_together([self.scores, *self.refine, *self.deltas], device)
        num = len(self.refine)
        return HeadOutput(scores, tuple(rest[:num]), tuple(rest[num:]))


class WsodStreams(nn.Module):
    """From hidden features of RoIs ``(R, H)`` to WSDDN's two streams, the refinement branches and their boxes.

    Output layers start from N(0, ``init_std``), 0.01 in OICR; with ``box_regression`` every branch also has a box
    offset per class, from layers that start from N(0, 0.001). ``background_column``: WSDDN's streams have a column for
    background, as in MIST (``docs/method.md, MIST``).
    """

    def __init__(
        self,
        hidden: int,
        num_classes: int,
        *,
        num_branches: int = 3,
        box_regression: bool = False,
        background_column: bool = False,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        self.class_stream = nn.Linear(hidden, num_classes + background_column)
        self.detection_stream = nn.Linear(hidden, num_classes + background_column)
        self.refine = nn.ModuleList(nn.Linear(hidden, num_classes + 1) for _ in range(num_branches))
        for layer in (self.class_stream, self.detection_stream, *self.refine):
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)
        num_offsets = 4 * (num_classes + 1)
        self.boxes = nn.ModuleList(nn.Linear(hidden, num_offsets) for _ in range(num_branches if box_regression else 0))
        for layer in self.boxes:
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor, counts: Sequence[int] | None = None) -> list[HeadOutput]:
        """Answers for each photo: ``hidden`` (R, H) holds ``counts`` RoIs of one photo after the other (None: all of
        one).

        Everything that is compared within a photo is computed in float32. No RoI gives empty tensors.
        """
        counts = [len(hidden)] if counts is None else list(counts)
        of_photos = [self.class_stream(hidden), self.detection_stream(hidden)]
        of_photos += [branch(hidden) for branch in self.refine]
        of_photos += [branch(hidden).unflatten(1, (-1, 4)) for branch in self.boxes]
        first_offset = 2 + len(self.refine)
        by_photo = zip(*(full_precision(layer).split(counts) for layer in of_photos), strict=True)
        return [
            HeadOutput(wsddn_scores(layers[0], layers[1]), layers[2:first_offset], layers[first_offset:])
            for layers in by_photo
        ]


class HiddenLayers(nn.Sequential):
    """Layers on rows of features ``(R, F)``, whose dropout is drawn for each photo from its own random numbers."""

    def forward(self, rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Hidden features ``(R, H)`` of rows ``(R, F)``, ``counts`` of one photo after another (None: all of one)."""
        for layer in self:
            if isinstance(layer, nn.Dropout):
                if self.training and layer.p > 0:
                    rows = photo_dropout(rows, layer.p, [len(rows)] if counts is None else counts)
            else:
                rows = layer(rows)
        return rows


def hidden_layers(num_inputs: int, hidden: int, dropout: float) -> HiddenLayers:
    """Two layers of ``hidden`` units, each with ReLU and dropout: the fc6 and fc7 of VGG-16, of any size."""
    return HiddenLayers(
        nn.Linear(num_inputs, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
    )


class WsodHead(nn.Module):
    """Two hidden layers on frozen features of RoIs, then WSDDN's two streams and the refinement branches.

    RoIs are pooled to ``roi_size`` cells a side from ``channels`` principal components of ``source_channels`` frozen
    features; the components travel with the weights as the buffers ``directions`` (channels, source_channels) and
    ``centre`` (source_channels,).
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
        background_column: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(channels, source_channels))
        self.register_buffer("centre", torch.zeros(source_channels))
        self.hidden = hidden_layers(channels * roi_size**2, hidden, dropout)
        self.streams = WsodStreams(
            hidden,
            num_classes,
            num_branches=num_branches,
            box_regression=box_regression,
            background_column=background_column,
        )

    def forward(self, rois: Tensor, counts: Sequence[int] | None = None) -> list[HeadOutput]:
        """Score RoIs by their features ``(R, channels * roi_size^2)``, photo by photo as in `WsodStreams`."""
        return self.streams(self.hidden(full_precision(rois), counts), counts)


def mean_class_probabilities(refine: Sequence[Tensor]) -> Tensor:
    """Mean over the branches of the class probabilities ``(R, C)``, background left out (OICR's test score)."""
    return torch.stack([logits.softmax(dim=1) for logits in refine]).mean(dim=0)[:, 1:]
