"""Build torchvision's Mask R-CNN on the parts of the Faster R-CNN, and paste its masks into the photo."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import input_colours
from weaksam.models.detectors.faster_rcnn import DetectorSettings, detector_parts, finish_detector
from weaksam.models.detectors.roi_heads import mask_logits_of
from weaksam.models.roi.align import PyramidAlign
from weaksam.store.weights import load_into
from weaksam.structures.masks import Rle, rle_from_mask

MASK_KEYS = ("roi_heads.mask_",)
"""Begin the names of the tensors that a Faster R-CNN has not."""
_PASTED_AT_ONCE = 8


class MaskDetectorSettings(DetectorSettings):
    """The detector with a mask head."""

    mask_channels: int = Field(96, ge=8)
    """Depth of the mask head's convolutions."""
    mask_layers: int = Field(3, ge=1)
    """Number of its 3x3 convolutions."""
    mask_threshold: float = Field(0.5, gt=0, lt=1)
    """Pixels of this probability or more belong to the mask."""


def build_mask_rcnn(
    backbone: BackboneSettings, settings: MaskDetectorSettings, num_classes: int, *, plain: bool = False
) -> MaskRCNN:
    """The segmenting detector; ``num_classes`` and ``plain`` as for `build_faster_rcnn`."""
    parts = detector_parts(backbone, settings, num_classes)
    pool: PyramidAlign = parts["box_roi_pool"]
    model = MaskRCNN(
        **parts,
        mask_roi_pool=PyramidAlign(pool.featmap_names, pool.strides, size=14),
        mask_head=MaskRCNNHeads(settings.fpn_channels, (settings.mask_channels,) * settings.mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(settings.mask_channels, settings.mask_channels, num_classes + 1),
    )
    # Torchvision draws the last layer by its fan-out, which with few classes starts at a mask loss near 8, not 0.7
    nn.init.normal_(model.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.001)
    return finish_detector(model, settings, input_colours(backbone), plain=plain)


def start_from_detector(model: MaskRCNN, state: Mapping[str, Tensor]) -> None:
    """Copy all but the mask head from a Faster R-CNN's tensors.

    Raises:
        UserError: the detector has another shape (backbone, widths or number of classes).
    """
    load_into(model, state, "the Mask R-CNN's detector part", allow_missing=MASK_KEYS)


@torch.inference_mode()
def predict_masks(model: MaskRCNN, image: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Mask probabilities ``(N, 1, 28, 28)`` inside each of ``boxes`` (N, 4) of a photo ``(3, h, w)``.

    ``labels`` (N,) count from 1; N = 0 gives none.
    """
    model.eval()
    batch, _ = model.transform([image])
    features, heads = model.backbone(batch.tensors), model.roi_heads
    pooled = heads.mask_roi_pool(features, [boxes], batch.image_sizes)
    return mask_logits_of(heads.mask_predictor, heads.mask_head(pooled), labels).sigmoid()[:, None]


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> tuple[Rle, ...]:
    """RLE masks in a photo of ``size`` (H, W) from in-box probabilities ``(N, 1, M, M)`` and xyxy boxes ``(N, 4)``.

    Torchvision's pasting, a few masks at a time so that large photos fit in memory; N = 0 gives no masks.
    """
    rles: list[Rle] = []
    for start in range(0, len(boxes), _PASTED_AT_ONCE):
        chunk = slice(start, start + _PASTED_AT_ONCE)
        pasted = paste_masks_in_image(probabilities[chunk].float().cpu(), boxes[chunk].float().cpu(), size)
        rles.extend(rle_from_mask(mask) for mask in torch.ge(pasted[:, 0], threshold))
    return tuple(rles)
