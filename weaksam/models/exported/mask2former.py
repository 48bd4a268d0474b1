"""Mask2Former of fixed size: its best pairs of query and class, with the logits of their masks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from weaksam.models.detectors.mask2former.network import Mask2Former
from weaksam.models.exported.network import FixedDetections, FixedNetwork
from weaksam.models.exported.plain import with_plain_layers


class FixedMask2Former(FixedNetwork):
    """Mask2Former on photos that are padded to one frame.

    Scores are the probabilities of the classes alone, and boxes are zeros: who enlarges the masks multiplies by their
    mean probability and takes their boxes (published instance inference).
    """

    output_names = ("boxes", "scores", "labels", "masks")

    def __init__(self, model: Mask2Former, frame: tuple[int, int], max_boxes: int) -> None:
        """A copy of ``model``, which stays as it is; ``max_boxes`` pairs are given of each photo."""
        super().__init__(frame, model.colours)
        self.model = with_plain_layers(copy.deepcopy(model)).eval()
        self.max_boxes = max_boxes

    def detect(self, pixels: Tensor, sizes: Tensor) -> FixedDetections:
        """See `FixedNetwork`."""
        predictions = self.model.predictions(pixels)
        probabilities = predictions.classes[-1].float().softmax(-1)[..., :-1]  # (B, Q, C)
        num_queries, num_classes = probabilities.shape[1:]
        num = min(self.max_boxes, num_queries * num_classes)
        scores, pairs = probabilities.flatten(1).topk(num, dim=1)
        queries, labels = torch.div(pairs, num_classes, rounding_mode="floor"), pairs % num_classes
        embeddings = predictions.embeddings[-1].float()
        chosen = embeddings.gather(1, queries[..., None].expand(-1, -1, embeddings.shape[-1]))  # (B, K, C')
        masks = torch.einsum("bkc,bchw->bkhw", chosen, predictions.features.float())
        if predictions.offsets is not None:
            masks = masks + predictions.offsets[-1].float().gather(1, queries)[..., None, None]
        return FixedDetections(torch.zeros_like(scores)[..., None].expand(-1, -1, 4).clone(), scores, labels, masks)
