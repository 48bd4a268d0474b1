"""DINO of fixed size."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torchvision.ops import box_convert

from weaksam.models.backbones.colours import ColourSettings
from weaksam.models.detectors.dino.detector import Dino
from weaksam.models.detectors.dino.positions import PyramidAreas
from weaksam.models.exported.network import FixedDetections, FixedNetwork, best_rows
from weaksam.models.exported.plain import with_plain_layers


class FixedDino(FixedNetwork):
    """DINO on photos that are padded to one frame."""

    def __init__(self, model: Dino, frame: tuple[int, int], colours: ColourSettings) -> None:
        """A copy of ``model``, which stays as it is."""
        super().__init__(frame, colours)
        self.model = with_plain_layers(copy.deepcopy(model)).eval()
        self.min_score, self.max_boxes = model.min_score, model.max_boxes

    def detect(self, pixels: Tensor, sizes: Tensor) -> FixedDetections:
        """See `FixedNetwork`."""
        levels = self.model.neck(self.model.backbone(pixels))
        outputs = self.model.decode_areas(levels, self._areas(levels, sizes))
        scores = outputs.logits[-1].float().sigmoid()  # (B, Q, C)
        num_classes = scores.shape[-1]
        corners = box_convert(outputs.boxes[-1].float(), "cxcywh", "xyxy").clamp(0, 1)
        boxes = corners * sizes.flip(1).repeat(1, 2)[:, None].to(corners)
        boxes = boxes[:, :, None].expand(-1, -1, num_classes, -1).flatten(1, 2)
        labels = torch.arange(num_classes, device=scores.device).expand(*scores.shape[:2], -1).flatten(1)
        flat = scores.flatten(1)
        return FixedDetections(*best_rows(boxes, flat * (flat >= self.min_score), labels, self.max_boxes))

    def _areas(self, levels: list[Tensor], sizes: Tensor) -> PyramidAreas:
        """Where the photos of ``sizes`` (B, 2) (h, w) lie on every level: a cell counts if its first pixel does."""
        height, width = self.frame
        shapes = [(level.shape[2], level.shape[3]) for level in levels]
        cells = torch.tensor([[w, h] for h, w in shapes], device=sizes.device)  # (L, 2)
        frame = torch.tensor([width, height], device=sizes.device)
        valid = (sizes.flip(1)[:, None] * cells + frame - 1) // frame  # (B, L, 2), rounded up
        return PyramidAreas(tuple(shapes), valid.float(), is_padded=True)
