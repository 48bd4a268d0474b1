"""Define what exported networks share: their frame, their input and the names of their outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from weaksam.models.backbones.colours import ColourSettings


class FixedDetections(NamedTuple):
    """K detections of each of B photos, best first; rows that are none have a score of 0 and a label of -1.

    ``boxes`` float32 ``(B, K, 4)`` xyxy in pixels of the frame; ``scores`` float32 ``(B, K)``; ``labels`` int64
    ``(B, K)`` from 0; ``masks`` where the network gives them: probabilities in the box ``(B, K, 28, 28)`` of a Mask
    R-CNN, logits of the whole frame ``(B, K, H / 4, W / 4)`` of a Mask2Former.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class FixedNetwork(nn.Module):
    """A detector for photos in a frame of fixed size, which are padded on the right and below."""

    mean: Tensor
    deviation: Tensor
    output_names: tuple[str, ...] = ("boxes", "scores", "labels")

    def __init__(self, frame: tuple[int, int], colours: ColourSettings) -> None:
        """``frame`` (H, W), both multiples of 32; ``colours`` that the network wants."""
        super().__init__()
        self.frame, self.is_bgr = frame, colours.order == "bgr"
        for name, levels in (("mean", colours.mean), ("deviation", colours.deviation)):
            self.register_buffer(name, torch.tensor(levels).view(3, 1, 1) / 255)

    def normalised(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Network's numbers ``(B, 3, H, W)`` of uint8 ``images``; 0 outside of each photo's ``sizes`` (B, 2) (h, w)."""
        height, width = self.frame
        pixels = (images.float() / 255.0 - self.mean) / self.deviation
        pixels = pixels.flip(1) if self.is_bgr else pixels
        rows = torch.arange(height, device=images.device) < sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]  # (B, W)
        return pixels * (rows[:, None, :, None] & columns[:, None, None, :])

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Tensors of `FixedDetections` of uint8 RGB ``images`` (B, 3, H, W) and the photos' ``sizes`` (B, 2) (h, w)."""
        detections = self.detect(self.normalised(images, sizes), sizes)
        return tuple(values for values in detections if values is not None)

    def detect(self, pixels: Tensor, sizes: Tensor) -> FixedDetections:
        """The detections in normalised ``pixels`` (B, 3, H, W)."""
        raise NotImplementedError


def clipped(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes ``(B, ..., 4)`` cut to the photos of ``sizes`` (B, 2) (h, w)."""
    limit = sizes.flip(1).repeat(1, 2).to(boxes.dtype)  # (B, 4): w, h, w, h
    limit = limit.view(sizes.shape[0], *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def best_rows(boxes: Tensor, scores: Tensor, labels: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``num`` best of ``boxes`` (B, N, 4) by ``scores`` (B, N), padded with scores of 0 where N is less."""
    short = max(num - scores.shape[1], 0)
    boxes = nn.functional.pad(boxes, (0, 0, 0, short))
    scores, labels = (nn.functional.pad(values, (0, short)) for values in (scores, labels))
    scores, rows = scores.topk(num, dim=1)
    labels = labels.gather(1, rows)
    boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    there = scores > 0
    return boxes * there[..., None], scores, torch.where(there, labels, -1)
