"""Gather the figures of pseudo masks: their mean IoU with true masks, and the quality of the map that they paint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weaksam.evaluation.mask_quality import MaskQualityResult, mask_quality
from weaksam.evaluation.panoptic import PanopticResult, panoptic_quality
from weaksam.evaluation.semantic import SemanticResult, semantic_iou
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class PseudoMaskFigures:
    """Mean IoU of pseudo masks, and mIoU and panoptic quality of all of them painted, whatever their scores."""

    quality: MaskQualityResult
    semantic: SemanticResult
    panoptic: PanopticResult

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them: ``mask_iou``, ``miou`` and ``pq``."""
        return {"mask_iou": self.quality.as_dict(), "miou": self.semantic.as_dict(), "pq": self.panoptic.as_dict()}


def pseudo_mask_figures(
    truths: Mapping[str, Instances],
    pseudo_masks: Mapping[str, Instances],
    num_classes: int,
    sizes: Mapping[str, tuple[int, int]],
) -> PseudoMaskFigures:
    """Figures of pseudo masks over the images of ``sizes`` (H, W) that ``truths`` names; `UserError` without masks."""
    arguments = (truths, pseudo_masks, num_classes)
    return PseudoMaskFigures(
        mask_quality(*arguments),
        semantic_iou(*arguments, sizes=sizes, min_score=0),
        panoptic_quality(*arguments, min_score=0),
    )
