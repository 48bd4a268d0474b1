"""Build torchvision's Faster R-CNN with a feature pyramid, compute its losses and run it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from weaksam.models.backbones.colours import ColourSettings
from weaksam.models.backbones.fast_convolutions import fuse_convolutions
from weaksam.models.backbones.inputs import normalise
from weaksam.models.backbones.pyramid import Pyramid, fpn_backbone, pyramid_strides
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import input_colours
from weaksam.models.detectors.frozen_stages import padded_size
from weaksam.models.detectors.ignored_regions import IGNORED, IgnoringProposalNetwork, IgnoringRoIHeads
from weaksam.models.detectors.photo_settings import PhotoSettings
from weaksam.models.detectors.region_proposals import SampledProposals
from weaksam.models.detectors.roi_heads import RegionHeads
from weaksam.models.photo_draws import photo_generators
from weaksam.models.roi.align import PyramidAlign
from weaksam.structures import boxes as box_ops
from weaksam.structures.devices import moved_together
from weaksam.structures.instances import Instances

_ANCHOR_SCALES: dict[tuple[int, ...], tuple[int, ...]] = {
    (8, 16, 32, 64): (4,),
    (8, 16, 32): (4, 8),
    (4, 8, 16, 32, 64): (8,),
    (4, 8, 16, 32): (8, 16),
}
"""Sides of a level's anchors, in steps of that level, by the steps of the levels. They are 32 to 256 pixels long, and
32 to 512 in a full pyramid, as torchvision and detectron2 have them."""


class DetectorSettings(PhotoSettings):
    """The shape of the detector and how its detections are chosen."""

    pyramid: Pyramid = "short"
    """``short``: levels of stride 8, 16, 32 and a pooled one; ``full``: one of stride 4 as well, with anchors up to 512
    pixels, as published detectors have it. The deepest stage of vgg16 and sam_nano has stride 16."""
    fpn_channels: int = Field(128, ge=8)
    """Depth of every level of the feature pyramid."""
    trainable_layers: int = Field(4, ge=0, le=6)
    """Stages of the backbone that train, counted from the deepest; the rest stays frozen."""
    representation: int = Field(512, ge=8)
    """Width of the two hidden layers of the box head."""
    rpn_pre_nms: int = Field(500, ge=1)
    """Anchors kept per pyramid level before suppression."""
    rpn_post_nms: int = Field(200, ge=1)
    """Region proposals kept per photo after suppression."""
    rpn_batch: int = Field(128, ge=2)
    """Anchors sampled per photo for the loss of the region proposal network."""
    roi_batch: int = Field(64, ge=4)
    """Regions sampled per photo for the loss of the box head; at most a quarter are foreground."""
    background_iou: float = Field(0.0, ge=0, lt=0.5)
    """Regions that overlap every box by less than this IoU do not train the box head as background: where labels are
    incomplete an unlabelled object may lie there. 0 takes them all, as usual; Fast R-CNN's value is 0.1."""
    nms_iou: float = Field(0.5, gt=0, le=1)
    """Detections of one class that overlap a better one by more than this IoU are dropped."""


class IncompleteLabelsMatcher(Matcher):
    """Torchvision's matcher of regions to boxes, which ignores regions far from every box.

    Regions whose best IoU is below ``background_iou`` are ignored instead of called background (docs/method.md,
    Retraining).
    """

    def __init__(self, foreground_iou: float, background_iou: float) -> None:
        super().__init__(foreground_iou, foreground_iou, allow_low_quality_matches=False)
        self.background_iou = background_iou

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """Index of the box ``(M,)`` for each region from IoU ``(N, M)``; -1 for background, -2 for ignored."""
        matches = super().__call__(match_quality_matrix)
        far = match_quality_matrix.max(dim=0).values < self.background_iou
        return matches.masked_fill(far, self.BETWEEN_THRESHOLDS)


class PhotoSampler(BalancedPositiveNegativeSampler):
    """Torchvision's choice of the regions that have a loss, drawn for each photo from its own random numbers."""

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks uint8 ``(R,)`` of the chosen foreground (labels above 0) and background (0) regions of each photo."""
        if not matched_idxs:
            return [], []
        generators = photo_generators(len(matched_idxs), matched_idxs[0].device)
        pairs = [self._of_photo(*of_photo) for of_photo in zip(matched_idxs, generators, strict=True)]
        return [foreground for foreground, _ in pairs], [background for _, background in pairs]

    def _of_photo(self, labels: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The two masks of one photo, in the order of torchvision's draws."""
        most = int(self.batch_size_per_image * self.positive_fraction)
        foreground, background = (torch.where(chosen)[0] for chosen in (labels >= 1, labels == 0))
        num_foreground = min(foreground.numel(), most)
        masks = []
        for rows, num in ((foreground, num_foreground), (background, self.batch_size_per_image - num_foreground)):
            order = torch.randperm(rows.numel(), device=rows.device, generator=generator)
            masks.append(torch.zeros_like(labels, dtype=torch.uint8).index_fill_(0, rows[order[:num]], 1))
        return masks[0], masks[1]


class PhotoTransform(GeneralizedRCNNTransform):
    """Torchvision's batching of photos that were already resized, with the project's one normalisation."""

    canvas: tuple[int, int] = (0, 0)
    """Height and width that batches are padded to at least, as a photo may be elsewhere that is larger than these."""

    def __init__(self, short_side: int, long_side: int, colours: ColourSettings) -> None:
        super().__init__(short_side, long_side, [0.0] * 3, [1.0] * 3, _skip_resize=True)
        self.colours = colours

    def normalize(self, image: Tensor) -> Tensor:
        """Normalised float ``(3, H, W)`` of a uint8 or 0..1 float photo."""
        return normalise(image, self.colours)

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        """Photos padded to one size ``(B, 3, H, W)``, a multiple of ``size_divisible``, laid out channels last."""
        batched = super().batch_images(images, size_divisible)
        lacking = [max(0, side - batched.shape[2 + axis]) for axis, side in enumerate(padded_size([self.canvas]))]
        batched = F.pad(batched, (0, lacking[1], 0, lacking[0]))
        return batched.contiguous(memory_format=torch.channels_last)


def build_faster_rcnn(
    backbone: BackboneSettings, settings: DetectorSettings, num_classes: int, *, plain: bool = False
) -> FasterRCNN:
    """The detector with ImageNet weights in its backbone and random heads (drawn from torch's current seed).

    ``num_classes`` does not count the background, which is torchvision's label 0. ``plain``: the twin of torchvision's
    own modules, which computes the same, slower.
    """
    model = FasterRCNN(**detector_parts(backbone, settings, num_classes))
    return finish_detector(model, settings, input_colours(backbone), plain=plain)


def detector_parts(backbone: BackboneSettings, settings: DetectorSettings, num_classes: int) -> dict[str, Any]:
    """The arguments that torchvision's FasterRCNN and MaskRCNN share."""
    body = fpn_backbone(
        backbone,
        out_channels=settings.fpn_channels,
        trainable_layers=settings.trainable_layers,
        pyramid=settings.pyramid,
    )
    strides = pyramid_strides(backbone.name, settings.pyramid)
    scales = _ANCHOR_SCALES[strides]
    pooled = [str(level) for level in range(len(strides) - 1)]
    return {
        "backbone": body,
        "rpn_anchor_generator": AnchorGenerator(
            tuple(tuple(stride * scale for scale in scales) for stride in strides), ((0.5, 1.0, 2.0),) * len(strides)
        ),
        "box_roi_pool": PyramidAlign(pooled, strides[:-1], size=7),
        "box_head": TwoMLPHead(settings.fpn_channels * 7 * 7, settings.representation),
        "box_predictor": FastRCNNPredictor(settings.representation, num_classes + 1),
        "rpn_pre_nms_top_n_train": settings.rpn_pre_nms,
        "rpn_pre_nms_top_n_test": settings.rpn_pre_nms,
        "rpn_post_nms_top_n_train": settings.rpn_post_nms,
        "rpn_post_nms_top_n_test": settings.rpn_post_nms,
        "rpn_batch_size_per_image": settings.rpn_batch,
        "box_batch_size_per_image": settings.roi_batch,
        "box_score_thresh": settings.min_score,
        "box_nms_thresh": settings.nms_iou,
        "box_detections_per_img": settings.max_boxes,
    }


def finish_detector(
    model: GeneralizedRCNN, settings: DetectorSettings, colours: ColourSettings, *, plain: bool = False
) -> GeneralizedRCNN:
    """Give a torchvision detector the project's photo transform (in its backbone's colours), matching and layout.

    Unless it stays ``plain``, its modules are exchanged for those that compute the same in less time.
    """
    # The same modules and settings with another matching; torchvision builds them itself and takes no class for them
    model.rpn.__class__ = IgnoringProposalNetwork if plain else SampledProposals
    model.roi_heads.__class__ = IgnoringRoIHeads if plain else RegionHeads
    model.roi_heads.proposal_matcher = IncompleteLabelsMatcher(0.5, settings.background_iou)
    for part in (model.rpn, model.roi_heads):
        part.fg_bg_sampler = PhotoSampler(part.fg_bg_sampler.batch_size_per_image, part.fg_bg_sampler.positive_fraction)
    model.transform = PhotoTransform(settings.short_side, settings.long_side, colours)
    if not plain:
        fuse_convolutions(model)
    return model.to(memory_format=torch.channels_last)


def target_of(instances: Instances, masks: Tensor | None = None) -> dict[str, Tensor]:
    """Torchvision's target: boxes ``(N, 4)``, labels ``(N,)`` from 1 and, if given, masks uint8 ``(N, h, w)``.

    With masks come their ``mask_weights`` (N,) where the instances have them, and ``class_weights`` and ``box_weights``
    (N,) alike. Instances marked ``crowd`` are regions to ignore: their label is `IGNORED`. Boxes under one pixel wide
    or high are left out.
    """
    sides = instances.boxes[:, 2:] - instances.boxes[:, :2]  # (N, 2)
    kept = (sides >= 1).all(dim=1)
    labels = instances.labels + 1
    if instances.crowd is not None:
        labels = labels.masked_fill(instances.crowd, IGNORED)
    target = {"boxes": instances.boxes[kept], "labels": labels[kept]}
    for name in ("class_weights", "box_weights", *(() if masks is None else ("mask_weights",))):
        weights = getattr(instances, name)
        target |= {} if weights is None else {name: weights[kept]}
    return target if masks is None else target | {"masks": masks[kept].to(torch.uint8)}


def training_losses(
    model: nn.Module,
    images: Sequence[Tensor],
    targets: Sequence[dict[str, Tensor]],
    canvas: tuple[int, int] = (0, 0),
) -> dict[str, Tensor]:
    """Torchvision's named losses (scalars) of photos ``(3, h, w)`` and their targets; a photo may have no box.

    They are padded as a batch is in which a photo of the height and width ``canvas`` is, too.
    """
    model.train()
    with _canvas_of(model.transform, canvas):
        losses: dict[str, Tensor] = model(list(images), list(targets))
    return losses


@contextmanager
def _canvas_of(transform: nn.Module, canvas: tuple[int, int]) -> Iterator[None]:
    """Inside, a `PhotoTransform` pads to ``canvas`` at least."""
    transform.canvas = canvas  # type: ignore[assignment]
    try:
        yield
    finally:
        transform.canvas = (0, 0)  # type: ignore[assignment]


@torch.inference_mode()
def detect(
    model: nn.Module, images: Sequence[Tensor], *, masks: bool = True, given: Sequence[Tensor] = ()
) -> list[dict[str, Tensor]]:
    """Raw detections in the frame of each photo ``(3, h, w)``: boxes ``(N, 4)``, labels from 1, scores ``(N,)``.

    Proposals that are ``given`` (P, 4) of each photo, in its frame, go to the heads of torchvision's detectors, too.
    A Mask R-CNN adds ``masks`` where they are wanted: probabilities ``(N, 1, 28, 28)`` inside each box. Best score
    first.
    """
    model.eval()
    if not isinstance(model, GeneralizedRCNN):  # DINO, which gives its detections itself
        detections_of_queries: list[dict[str, Tensor]] = model(list(images))
        return detections_of_queries
    batch: ImageList
    batch, _ = model.transform(list(images))
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    if given:
        proposals = [torch.cat(of_photo) for of_photo in zip(proposals, given, strict=True)]
    if masks:
        detections, _ = model.roi_heads(features, proposals, batch.image_sizes)
        return detections
    heads = model.roi_heads
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, batch.image_sizes)))
    of_photos = heads.postprocess_detections(logits, deltas, proposals, batch.image_sizes)
    columns = zip(*of_photos, strict=True)
    return [{"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in columns]


def instances_from(detection: dict[str, Tensor], from_size: tuple[int, int], to_size: tuple[int, int]) -> Instances:
    """Detections moved from a resized photo of ``from_size`` (h, w) to the original of ``to_size`` (H, W)."""
    scale_x, scale_y = to_size[1] / from_size[1], to_size[0] / from_size[0]
    of_network = [detection["boxes"].float(), detection["scores"].float(), detection["labels"]]
    boxes, scores, labels = moved_together(of_network, torch.device("cpu"))
    return Instances(box_ops.clip(box_ops.scale(boxes, scale_x, scale_y), to_size), labels - 1, scores)
