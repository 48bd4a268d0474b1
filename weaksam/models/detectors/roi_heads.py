"""Compute the loss of every sampled region of interest, and reduce them to torchvision's losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from weaksam.models.backbones.clamping import RELU
from weaksam.models.backbones.products import linear
from weaksam.models.detectors.box_weights import weights_of_regions
from weaksam.models.detectors.ignored_regions import IgnoringRoIHeads
from weaksam.models.detectors.negatives import NegativeSettings, class_losses, unknown_classes
from weaksam.models.full_precision import full_precision
from weaksam.models.ranks import ranks
from weaksam.models.roi.roi_drop import RoiDropSettings, dropped_regions, mean_of_kept

_BETA = 1 / 9
"""Where the smooth L1 loss of the boxes becomes linear, as in torchvision."""

_SCALARS = {"class": "loss_classifier", "box": "loss_box_reg", "mask": "loss_mask"}
"""Torchvision's names of the terms."""


@dataclass(frozen=True)
class RoiLosses:
    """Losses of R sampled regions before any reduction, F of them foreground; R may be 0."""

    labels: Tensor
    """Class of each ``(R,)``, 0 for background."""
    classification: Tensor
    """Cross-entropy ``(R,)``, or what `class_losses` makes of it where labels are incomplete, times the class weight of
    the region's box."""
    box: Tensor
    """Smooth L1 loss ``(R,)``, summed over the four deltas of the region's class, times the weight of its box; 0 for
    background."""
    mask: Tensor | None = None
    """Mean cross-entropy ``(F,)`` over the mask's cells of the foreground regions, in the order of ``labels``."""
    mask_weights: Tensor | None = None
    """How far the mask of each foreground region ``(F,)`` counts, in [0, 1]; None: all fully."""
    matches: tuple[Tensor, ...] = ()
    """Per photo the number ``(R_i,)`` of the box in its target that each region is assigned to; 0 for background."""

    def terms(self) -> dict[str, Tensor]:
        """``class``, ``box`` and, where there are masks, ``mask``: the loss of every region ``(R,)``."""
        terms = {"class": self.classification, "box": self.box}
        if self.mask is None:
            return terms
        return terms | {"mask": torch.zeros_like(self.box).masked_scatter(self.labels > 0, self.mask.to(self.box))}

    def reduced(self, dropped: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Torchvision's scalars: mean of the classification, sum of the boxes over R, mean of the masks; 0 of none.

        Regions ``dropped`` (bool ``(R,)`` by term) count as 0; the divisors stay as they are. Mask losses are
        multiplied by their weights, and divided by the number of those whose weight is above 0 (ours). Divisors are
        those of the whole batch where several processes compute it.
        """
        num_regions = ranks().total(len(self.labels))
        divisors: dict[str, int | Tensor] = {"class": num_regions, "box": num_regions}
        if self.mask is not None:
            weights = torch.ones_like(self.mask) if self.mask_weights is None else self.mask_weights
            divisors["mask"] = ranks().sum((weights > 0).sum())
        nowhere = torch.zeros_like(self.labels, dtype=torch.bool)
        return {
            _SCALARS[term]: mean_of_kept(losses, nowhere if dropped is None else dropped[term], divisors[term])
            for term, losses in self._weighted_terms().items()
        }

    def _weighted_terms(self) -> dict[str, Tensor]:
        """`terms` with the mask losses times their weights."""
        if self.mask is None or self.mask_weights is None:
            return self.terms()
        return replace(self, mask=self.mask * self.mask_weights.to(self.mask)).terms()

    def reduced_after(self, drop: RoiDropSettings, active: bool) -> dict[str, Tensor]:
        """`reduced` by RoI drop where it is ``active``, and the shares of foreground regions that left each term.

        Those figures, ``dropped_class`` and so on, are 0 before RoI drop starts and of no foreground region.
        """
        foreground = self.labels > 0
        dropped = dropped_regions(self.terms(), foreground, drop)
        if not active:
            dropped = {term: torch.zeros_like(rows) for term, rows in dropped.items()}
        num = ranks().sum(foreground.sum()).clamp(min=1)
        shares = {f"dropped_{term}": (rows & foreground).sum() / num for term, rows in dropped.items()}
        return self.reduced(dropped) | shares


class RegionHeads(IgnoringRoIHeads):
    """Torchvision's heads, whose training goes through the losses of single regions (`region_losses`).

    A mask is predicted for the class of its region alone, in one matrix product for each step of the predictor.
    """

    drop: RoiDropSettings | None = None
    """RoI drop, if the training has it; its losses then come with the shares that are dropped."""
    dropping = False
    """Whether it has started; the training sets this before each step."""
    negatives = NegativeSettings()
    """What regions without a box teach."""

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
        losses = self.region_losses(features, proposals, image_shapes, targets)
        return [], losses.reduced() if self.drop is None else losses.reduced_after(self.drop, self.dropping)

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
        logits, deltas = (full_precision(part) for part in self.box_predictor(self.box_head(pooled)))
        label = torch.cat(labels)
        mask, weights = None, None
        if self.has_mask():
            mask = self._mask_losses(features, sampled, matches, labels, image_shapes, targets)
            weights = weights_of_regions("mask_weights", matches, labels, targets)
            weights = None if weights is None else weights[label > 0]
        classification = self._class_losses(logits, label, sampled, targets)
        box = box_losses(deltas, label, torch.cat(wanted))
        class_weights = weights_of_regions("class_weights", matches, labels, targets)
        box_weights = weights_of_regions("box_weights", matches, labels, targets)
        classification = classification if class_weights is None else classification * class_weights
        box = box if box_weights is None else box * box_weights
        return RoiLosses(label, classification, box, mask, weights, tuple(matches))

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As `IgnoringRoIHeads`; where labels are incomplete ignored regions are 0, too: some classes are not there."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        if self.negatives.rule == "all":
            return matched, labels
        return matched, [of_photo.clamp(min=0) for of_photo in labels]

    def _class_losses(
        self, logits: Tensor, label: Tensor, sampled: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        """Class loss ``(R,)`` of all sampled regions, photo by photo."""
        if self.negatives.rule == "all" and not any("confident_boxes" in target for target in targets):
            return F.cross_entropy(logits, label, reduction="none")
        of_photos = zip(sampled, targets, strict=True)
        unknown = [unknown_classes(regions, target, self.negatives) for regions, target in of_photos]
        return class_losses(logits, label, torch.cat(unknown))

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
        foreground = [torch.where(of_photo > 0)[0] for of_photo in labels]
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
    of_outputs = weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 * D, C)
    upscaled = linear(hidden.permute(0, 2, 3, 1), of_outputs, bias.repeat(4), RELU)  # (F, M, M, 4 * D)
    upscaled = upscaled.view(num, rows * columns * 4, depth)
    of_class = predictor.mask_fcn_logits.weight.flatten(1)[labels]  # (F, D)
    logits = torch.bmm(upscaled, of_class[:, :, None])[..., 0] + predictor.mask_fcn_logits.bias[labels, None]
    return logits.view(num, rows, columns, 2, 2).permute(0, 1, 3, 2, 4).reshape(num, 2 * rows, 2 * columns)
