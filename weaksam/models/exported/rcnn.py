"""Faster and Mask R-CNN of fixed size: static top-k of anchors, a fixed number of regions, padding for ragged lists."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from weaksam.models.backbones.colours import ColourSettings
from weaksam.models.exported.network import FixedDetections, FixedNetwork, best_rows, clipped
from weaksam.models.exported.plain import with_plain_layers
from weaksam.models.exported.suppression import kept_boxes
from weaksam.models.roi.align import PyramidAlign

_LEAST_PROPOSAL, _LEAST_BOX = 1e-3, 1e-2
"""Torchvision's least side of a region proposal and of a detection."""


class FixedRcnn(FixedNetwork):
    """A Faster R-CNN, or a Mask R-CNN that gives the probabilities inside its boxes as well."""

    def __init__(self, model: GeneralizedRCNN, frame: tuple[int, int], colours: ColourSettings) -> None:
        """A copy of ``model``, which stays as it is."""
        super().__init__(frame, colours)
        model = with_plain_layers(copy.deepcopy(model)).eval()
        self.backbone, self.rpn, self.heads = model.backbone, model.rpn, model.roi_heads
        self.has_masks = isinstance(model, MaskRCNN)
        self.output_names = ("boxes", "scores", "labels", "masks") if self.has_masks else self.output_names
        with torch.no_grad():
            levels = list(self.backbone(torch.zeros(1, 3, *frame)).values())
            objectness, _ = self.rpn.head(levels)
            (anchors,) = self.rpn.anchor_generator(ImageList(torch.zeros(1, 3, *frame), [frame]), levels)
        self.counts = [of_level[0].numel() for of_level in objectness]
        self.register_buffer("anchors", anchors)

    def detect(self, pixels: Tensor, sizes: Tensor) -> FixedDetections:
        """See `FixedNetwork`."""
        features = self.backbone(pixels)
        regions, is_region = self._regions(list(features.values()), sizes)
        heads = self.heads
        pooled = heads.box_head(self._pooled(heads.box_roi_pool, features, regions))
        logits, deltas = (values.unflatten(0, regions.shape[:2]) for values in heads.box_predictor(pooled))
        boxes, scores = self._scored(regions, is_region, logits, deltas, sizes)
        boxes, scores, labels = best_rows(*_suppressed(boxes, scores, heads.nms_thresh), heads.detections_per_img)
        if not self.has_masks:
            return FixedDetections(boxes, scores, labels)
        hidden = heads.mask_head(self._pooled(heads.mask_roi_pool, features, boxes))
        of_classes = heads.mask_predictor(hidden)  # (B * K, C + 1, 2M, 2M)
        chosen = (labels.flatten() + 1)[:, None, None, None].expand(-1, -1, *of_classes.shape[2:])
        masks = of_classes.gather(1, chosen)[:, 0].sigmoid().unflatten(0, boxes.shape[:2])
        return FixedDetections(boxes, scores, labels, masks)

    def _regions(self, maps: list[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Region proposals ``(B, R, 4)``, and bool ``(B, R)``: which are some."""
        rpn = self.rpn
        objectness, deltas = rpn.head(maps)
        parts = []
        for scores, of_boxes, anchors in zip(
            map(_by_anchor, objectness, [1] * len(maps)),
            map(_by_anchor, deltas, [4] * len(maps)),
            self.anchors.split(self.counts),
            strict=True,
        ):
            num = min(rpn.pre_nms_top_n(), scores.shape[1])
            best, rows = scores[..., 0].topk(num, dim=1)
            boxes = _decoded(
                rpn.box_coder.weights, of_boxes.gather(1, rows[..., None].expand(-1, -1, 4)), anchors[rows]
            )
            boxes = clipped(boxes, sizes)
            best = best.sigmoid() * _is_as_large(boxes, _LEAST_PROPOSAL)
            parts.append((boxes, best * kept_boxes(boxes, best, rpn.nms_thresh)))
        boxes, scores = (torch.cat(values, dim=1) for values in zip(*parts, strict=True))
        num = min(rpn.post_nms_top_n(), scores.shape[1])
        scores, rows = scores.topk(num, dim=1)
        return boxes.gather(1, rows[..., None].expand(-1, -1, 4)), scores > 0

    def _pooled(self, pool: PyramidAlign, features: dict[str, Tensor], regions: Tensor) -> Tensor:
        """RoIAlign ``(B * R, C, size, size)`` of ``regions`` (B, R, 4), each on the level of its size."""
        photo = torch.arange(regions.shape[0], device=regions.device)[:, None, None].expand(-1, regions.shape[1], 1)
        rois = torch.cat([photo.to(regions), regions], dim=-1).flatten(0, 1)  # (B * R, 5)
        level, (size, _) = self._levels(pool, rois[:, 1:]), pool.output_size
        pooled = rois.new_zeros(())
        for number, (name, stride) in enumerate(zip(pool.featmap_names, pool.strides, strict=True)):
            of_level = roi_align(features[name], rois, size, 1 / stride, pool.sampling_ratio, aligned=False)
            pooled = pooled + of_level * (level == number)[:, None, None, None]
        return pooled

    @staticmethod
    def _levels(pool: PyramidAlign, boxes: Tensor) -> Tensor:
        """Number of the level ``(N,)`` that suits each of ``boxes`` (N, 4) (FPN, equation 1)."""
        mapper = pool.level_of
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        level = torch.floor(mapper.lvl0 + torch.log2(side / mapper.s0) + mapper.eps)
        return (level.clamp(mapper.k_min, mapper.k_max) - mapper.k_min).long()

    def _scored(
        self, regions: Tensor, is_region: Tensor, logits: Tensor, deltas: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes ``(B, R, C, 4)`` of every class but background, and their scores ``(B, R, C)``, 0 of those too low."""
        scores = logits.softmax(-1)[..., 1:]
        of_classes = deltas.unflatten(-1, (-1, 4))[:, :, 1:]  # (B, R, C, 4)
        boxes = _decoded(self.heads.box_coder.weights, of_classes, regions[:, :, None])
        boxes = clipped(boxes, sizes)
        good = (scores > self.heads.score_thresh) & _is_as_large(boxes, _LEAST_BOX) & is_region[..., None]
        return boxes, scores * good


def _suppressed(boxes: Tensor, scores: Tensor, nms_iou: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes ``(B, C * R, 4)``, scores, 0 of those suppressed within their class, and labels, of ``(B, R, C, 4)``."""
    num_classes = scores.shape[-1]
    of_classes, scores = boxes.transpose(1, 2).flatten(0, 1), scores.transpose(1, 2).flatten(0, 1)  # (B * C, R, ...)
    scores = scores * kept_boxes(of_classes, scores, nms_iou)
    num = scores.shape[1]
    labels = torch.arange(num_classes, device=scores.device)[:, None].expand(-1, num).flatten()
    flat = scores.reshape(-1, num_classes * num)
    return of_classes.reshape(-1, num_classes * num, 4), flat, labels.expand(flat.shape[0], -1)


def _by_anchor(values: Tensor, depth: int) -> Tensor:
    """``(B, h * w * A, depth)`` of a map ``(B, A * depth, h, w)``, in the order of torchvision's anchors."""
    return values.unflatten(1, (-1, depth)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def _decoded(weights: tuple[float, ...], deltas: Tensor, boxes: Tensor) -> Tensor:
    """``boxes`` (..., 4) moved by ``deltas`` (..., 4), as torchvision's BoxCoder does."""
    dx, dy, dw, dh = (deltas[..., axis] / weights[axis] for axis in range(4))
    limit = torch.log(torch.tensor(1000.0 / 16)).item()
    sides = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * sides
    middle = torch.stack([dx, dy], dim=-1) * sides + centre
    half = 0.5 * torch.stack([dw, dh], dim=-1).clamp(max=limit).exp() * sides
    return torch.cat([middle - half, middle + half], dim=-1)


def _is_as_large(boxes: Tensor, least: float) -> Tensor:
    """Bool ``(...)``: boxes ``(..., 4)`` with both sides of at least ``least`` pixels."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= least).all(-1)
