"""The DINO detector: photos in, losses or detections out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert

from weaksam.models.backbones.features import FeatureExtractor
from weaksam.models.detectors.dino.losses import dino_losses
from weaksam.models.detectors.dino.network import DinoNetwork
from weaksam.models.detectors.dino.settings import DinoShape
from weaksam.models.detectors.faster_rcnn import PhotoTransform
from weaksam.models.detectors.negatives import NegativeSettings
from weaksam.models.query.query_drop import QueryDropSettings
from weaksam.models.query.query_negatives import QueryNegatives
from weaksam.models.query.targets import QueryTargets
from weaksam.structures.devices import numbers_on


class Dino(DinoNetwork):
    """DINO with its photo transform, losses and choice of detections."""

    drop: QueryDropSettings | None = None
    """Query drop, if the training has it; its losses then come with the shares that are dropped."""
    dropping = False
    """Whether it has started; the training sets this before each step."""
    negatives = NegativeSettings()
    """What queries without a box teach."""
    confident: float | None = None
    """The score of a tagged class above which they do not teach that it is not there; set before each step."""

    def __init__(
        self,
        backbone: FeatureExtractor,
        shape: DinoShape,
        num_classes: int,
        transform: PhotoTransform,
        min_score: float,
        max_boxes: int,
    ) -> None:
        super().__init__(backbone, shape, num_classes)
        self.transform, self.min_score, self.max_boxes = transform, min_score, max_boxes

    def forward(
        self, photos: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Named losses of photos ``(3, h, w)`` and torchvision's targets in training, else detections.

        Detections of each photo: ``boxes`` (N, 4) xyxy in its pixels, ``labels`` (N,) from 1, ``scores`` (N,), best
        first. A query may give detections of several classes; none are suppressed.
        """
        batch, _ = self.transform(list(photos))
        if not self.training:
            outputs = self.predictions(batch.tensors, batch.image_sizes)
            return detections(outputs.logits[-1], outputs.boxes[-1], batch.image_sizes, self.min_score, self.max_boxes)
        assert targets is not None, "training wants targets"
        of_batch = QueryTargets.of(targets, batch.image_sizes, batch.tensors.device)
        denoising = self.dn_query_generator(of_batch)
        outputs = self.predictions(batch.tensors, batch.image_sizes, denoising)
        negatives = None
        if self.negatives.rule != "all" or self.confident is not None:
            negatives = QueryNegatives.of(
                self.negatives, self.confident, targets, batch.image_sizes, batch.tensors.device
            )
        return dino_losses(outputs, of_batch, denoising, self.drop, self.dropping, negatives)


def detections(
    logits: Tensor, boxes: Tensor, photo_sizes: Sequence[tuple[int, int]], min_score: float, max_boxes: int
) -> list[dict[str, Tensor]]:
    """The best ``max_boxes`` pairs of query and class of each photo of ``photo_sizes`` (h, w), as torchvision has them.

    ``logits`` (B, Q, C), ``boxes`` (B, Q, 4) of centre and sides as shares of the photo. Scores are at least
    ``min_score``.
    """
    num_classes = logits.shape[-1]
    scores, indices = logits.float().sigmoid().flatten(1).topk(min(max_boxes, logits[0].numel()), dim=1)
    corners = box_convert(boxes.float(), "cxcywh", "xyxy").clamp(0, 1)
    results = []
    for of_photo, score, index, (height, width) in zip(corners, scores, indices, photo_sizes, strict=True):
        (kept,) = torch.where(score >= min_score)
        side = numbers_on(of_photo.device, [width, height, width, height], of_photo.dtype)
        query = torch.div(index[kept], num_classes, rounding_mode="floor")
        results.append(
            {"boxes": of_photo[query] * side, "labels": index[kept] % num_classes + 1, "scores": score[kept]}
        )
    return results
