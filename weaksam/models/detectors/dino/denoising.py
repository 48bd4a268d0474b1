"""Make denoising queries: noisy true boxes and classes that the decoder has to mend (DINO, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from weaksam.models.detectors.dino.positions import inverse_sigmoid
from weaksam.models.detectors.dino.settings import DinoShape
from weaksam.models.photo_draws import photo_rand, photo_randint
from weaksam.models.query.targets import QueryTargets


@dataclass(frozen=True)
class Denoising:
    """Noisy boxes of a batch in groups of 2T, T the most boxes of a photo: first the positive ones, then the negative.

    D = groups * 2T queries, 0 where no photo has a box. Rows beyond a photo's boxes are empty queries.
    """

    labels: Tensor
    """Noisy class ``(B, D)``; -1 for an empty query."""
    boxes: Tensor
    """Logits ``(B, D, 4)`` of relative centre and sides; 0 for an empty query."""
    matched: Tensor
    """Number ``(B, D)`` of the true box that a query shall become; -1: it is background."""
    num_groups: int

    def __len__(self) -> int:
        return self.labels.shape[1]

    def blocked(self, num_queries: int) -> Tensor | None:
        """Bool ``(D + Q, D + Q)``: whom a row may not see. None without denoising queries.

        Groups do not see each other, matching queries see no group; all see the matching queries.
        """
        if len(self) == 0:
            return None
        group = torch.arange(len(self) + num_queries, device=self.labels.device) // (len(self) // self.num_groups)
        group = group.clamp(max=self.num_groups)  # the matching queries are the last
        return (group[:, None] != group) & (group != self.num_groups)


class DenoisingQueries(nn.Module):
    """Makes denoising queries; holds the embedding of every class."""

    def __init__(self, shape: DinoShape, num_classes: int) -> None:
        super().__init__()
        self.label_embedding = nn.Embedding(num_classes, shape.embed_dims)
        self.num_queries, self.label_noise, self.box_noise = shape.num_denoising, shape.label_noise, shape.box_noise

    def forward(self, targets: QueryTargets) -> Denoising | None:
        """Draw the noise; None if denoising is off."""
        if self.num_queries == 0:
            return None
        num_boxes = targets.boxes.shape[1]
        groups = max(1, self.num_queries // num_boxes) if num_boxes else 1
        # The same rows for the positive and the negative queries of every group
        device, rows = targets.boxes.device, (len(targets.labels), groups, 2, num_boxes)
        labels, boxes = targets.labels[:, None, None].expand(rows), targets.boxes[:, None, None].expand(*rows, 4)
        noisy = boxes_with_noise(boxes, self.box_noise)
        present = targets.present[:, None, None].expand(rows)
        number = torch.arange(num_boxes, device=device).expand(rows).clone()
        number[:, :, 1] = -1
        return Denoising(
            labels_with_noise(labels, self.label_noise, self.label_embedding.num_embeddings)
            .masked_fill(~present, -1)
            .flatten(1),
            inverse_sigmoid(noisy, 1e-3).masked_fill(~present[..., None], 0.0).flatten(1, 3),
            number.masked_fill(~present, -1).flatten(1),
            groups,
        )

    def embed(self, denoising: Denoising) -> Tensor:
        """Contents ``(B, D, C)`` of the queries; 0 of an empty one."""
        contents = self.label_embedding(denoising.labels.clamp(min=0))
        return contents.masked_fill(denoising.labels[..., None] < 0, 0.0)


def labels_with_noise(labels: Tensor, noise: float, num_classes: int) -> Tensor:
    """``labels`` (B, ...), half of ``noise`` of which become any class, the right one included."""
    changed = photo_rand(labels.shape, labels.device) < noise / 2
    return torch.where(changed, photo_randint(num_classes, labels.shape, labels.device), labels)


def boxes_with_noise(boxes: Tensor, noise: float) -> Tensor:
    """Boxes ``(B, G, 2, T, 4)`` (relative centre and sides) whose corners moved, clipped to the photo.

    A corner moves by up to half of ``noise`` sides of the box; of the second of each pair, the negative, by half of one
    to two times as much.
    """
    moved = photo_rand(boxes.shape, boxes.device)
    moved[:, :, 1] += 1
    moved *= photo_randint(2, boxes.shape, boxes.device) * 2.0 - 1
    half_sides = boxes[..., 2:].repeat(*[1] * (boxes.ndim - 1), 2) / 2
    corners = box_convert(boxes, "cxcywh", "xyxy") + moved * half_sides * noise
    return box_convert(corners.clamp(0, 1), "xyxy", "cxcywh")
