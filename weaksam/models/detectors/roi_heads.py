"""Compute the loss of every sampled region of interest, and reduce them to torchvision's losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from weaksam.models.detectors.ignored_regions import IgnoringRoIHeads

_BETA = 1 / 9
"""Where the smooth L1 loss of the boxes becomes linear, as in torchvision."""


@dataclass(frozen=True)
class RoiLosses:
    """Losses of R sampled regions before any reduction, F of them foreground; R may be 0."""

    labels: Tensor
    """Class of each ``(R,)``, 0 for background."""
    classification: Tensor
    """Cross-entropy ``(R,)``."""
    box: Tensor
    """Smooth L1 loss ``(R,)``, summed over the four deltas of the region's class; 0 for background."""
    mask: Tensor | None = None
    """Mean cross-entropy ``(F,)`` over the mask's cells of the foreground regions, in the order of ``labels``."""

    def reduced(self) -> dict[str, Tensor]:
        """Torchvision's scalars: mean of the classification, sum of the boxes over R, mean of the masks; 0 of none."""
        num = max(len(self.labels), 1)
        losses = {"loss_classifier": self.classification.sum() / num, "loss_box_reg": self.box.sum() / num}
        if self.mask is not None:
            losses["loss_mask"] = self.mask.sum() / max(len(self.mask), 1)
        return losses


class RegionHeads(IgnoringRoIHeads):
    """Torchvision's heads, whose training goes through the losses of single regions (`region_losses`).

    A mask is predicted for the class of its region alone, in one matrix product for each step of the predictor.
    """

    def forward(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """No detections and the reduced losses in training; else torchvision's detections and no losses."""
        if not self.training:
            detections: tuple[list[dict[str, Tensor]], dict[str, Tensor]] = super().forward(
                features, proposals, image_shapes, targets
            )
            return detections
        assert targets is not None, "training wants targets"
        return [], self.region_losses(features, proposals, image_shapes, targets).reduced()

    def region_losses(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> RoiLosses:
        """Sample regions of ``proposals`` (R_i, 4) and give the losses of each, photo by photo."""
        sampled, matches, labels, wanted = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, sampled, image_shapes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        label = torch.cat(labels)
        mask = None
        if self.has_mask():
            mask = self._mask_losses(features, sampled, matches, labels, image_shapes, targets)
        classification = F.cross_entropy(logits, label, reduction="none")
        return RoiLosses(label, classification, box_losses(deltas, label, torch.cat(wanted)), mask)

    def _mask_losses(
        self,
        features: Mapping[str, Tensor],
        sampled: Sequence[Tensor],
        matches: Sequence[Tensor],
        labels: Sequence[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> Tensor:
        """Mask loss ``(F,)`` of the foreground regions; where there are none, ``(0,)`` that still has a gradient."""
        foreground = [of_photo > 0 for of_photo in labels]
        boxes = [of_photo[chosen] for of_photo, chosen in zip(sampled, foreground, strict=True)]
        label = torch.cat([of_photo[chosen] for of_photo, chosen in zip(labels, foreground, strict=True)])
        hidden = self.mask_head(self.mask_roi_pool(features, boxes, image_shapes))
        logits = mask_logits_of(self.mask_predictor, hidden, label)  # (F, 2M, 2M)
        wanted = [
            project_masks_on_boxes(target["masks"], of_photo, match[chosen], logits.shape[-1])
            for target, of_photo, match, chosen in zip(targets, boxes, matches, foreground, strict=True)
        ]
        return F.binary_cross_entropy_with_logits(logits, torch.cat(wanted), reduction="none").mean(dim=(1, 2))


def box_losses(deltas: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1 loss ``(R,)`` of ``deltas`` (R, 4 * classes) at each region's label against ``wanted`` (R, 4).

    0 where the label ``(R,)`` is 0, the background.
    """
    of_label = deltas.unflatten(1, (-1, 4))[torch.arange(len(labels), device=labels.device), labels]
    losses = F.smooth_l1_loss(of_label, wanted, beta=_BETA, reduction="none").sum(dim=1)
    return torch.where(labels > 0, losses, losses.new_zeros(()))


def mask_logits_of(predictor: MaskRCNNPredictor, hidden: Tensor, labels: Tensor) -> Tensor:
    """Mask logits ``(F, 2M, 2M)`` of each region's own class from hidden maps ``(F, C, M, M)`` and labels ``(F,)``.

    The predictor's 2x2 deconvolution of stride 2 is a product of the cells' rows, since its outputs do not overlap.
    """
    weight, bias = predictor.conv5_mask.weight, predictor.conv5_mask.bias  # (C, D, 2, 2), (D,)
    depth, (num, _, rows, columns) = weight.shape[1], hidden.shape
    upscaled = hidden.permute(0, 2, 3, 1) @ weight.permute(0, 2, 3, 1).flatten(1)  # (F, M, M, 4 * D)
    upscaled = F.relu(upscaled.view(num, rows * columns * 4, depth) + bias, inplace=True)
    of_class = predictor.mask_fcn_logits.weight.flatten(1)[labels]  # (F, D)
    logits = torch.bmm(upscaled, of_class[:, :, None])[..., 0] + predictor.mask_fcn_logits.bias[labels, None]
    return logits.view(num, rows, columns, 2, 2).permute(0, 1, 3, 2, 4).reshape(num, 2 * rows, 2 * columns)
