"""Choose which of the queries' masks are detections, and bring them into the frame of the photo."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.models.detectors.mask2former.losses import QueryPredictions
from weaksam.models.detectors.mask2former.network import Mask2Former
from weaksam.models.detectors.mask2former.settings import Mask2FormerSettings
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, boxes_from_masks, rle_from_mask

_MASKS_AT_ONCE = 8


@torch.inference_mode()
def segment_photo(
    model: Mask2Former, image: Tensor, size: tuple[int, int], settings: Mask2FormerSettings, *, mirrored: bool = False
) -> Instances:
    """Detections with masks of a photo ``(3, h, w)`` in the frame of its original of ``size`` (H, W), best first.

    ``mirrored``: the network is shown the photo's mirror image, and its masks are mirrored back.

    The ``max_boxes`` best pairs of query and class by the class's probability are taken; the score is that probability
    times the mean probability of the pixels in the mask (published code of Mask2Former, instance inference), whose
    pixels are those above ``mask_threshold``. Boxes enclose the masks. Detections below ``min_score`` and empty masks
    are dropped; none left gives N = 0 with all columns.
    """
    model.eval()
    predictions = model([image.flip(-1) if mirrored else image])
    probabilities = predictions.classes[-1, 0].float().softmax(-1)[:, :-1]  # (Q, K)
    scores, pairs = probabilities.flatten().topk(min(settings.max_boxes, probabilities.numel()))
    pairs = pairs[scores >= settings.min_score]  # no score is above its class's probability
    queries, labels = pairs // probabilities.shape[1], pairs % probabilities.shape[1]
    chosen, of_pair = queries.unique(return_inverse=True)
    shown = image.shape[1], image.shape[2]
    inside, boxes, rles = _masks_of(predictions, chosen, shown, size, settings.mask_threshold, mirrored)
    of_pair = of_pair.cpu()
    detections = Instances(
        boxes[of_pair],
        labels.cpu(),
        probabilities[queries, labels].cpu() * inside[of_pair],
        tuple(rles[mask] for mask in of_pair.tolist()),
    )
    assert detections.scores is not None
    order = detections.scores.argsort(descending=True, stable=True)
    enough = (detections.scores[order] >= settings.min_score) & (inside[of_pair][order] > 0)
    return detections[order[enough]]


def _masks_of(
    predictions: QueryPredictions,
    queries: Tensor,
    shown: tuple[int, int],
    size: tuple[int, int],
    threshold: float,
    mirrored: bool,
) -> tuple[Tensor, Tensor, list[Rle]]:
    """Mean probability in each mask ``(M,)``, 0 of an empty one, boxes ``(M, 4)`` and RLEs of the ``queries`` (M,).

    On the CPU, in the frame of ``size`` (H, W) of a photo that was ``shown`` (h, w), maybe ``mirrored``.
    """
    means, boxes, rles = [torch.zeros(0)], [torch.zeros(0, 4)], []
    for probabilities in _probabilities(predictions, queries, shown, size):
        probabilities = probabilities.flip(-1) if mirrored else probabilities
        masks = probabilities > threshold
        areas = masks.sum((1, 2))
        means.append(((probabilities * masks).sum((1, 2)) / areas.clamp(min=1)).cpu())
        boxes.append(boxes_from_masks(masks).cpu())
        rles += [rle_from_mask(mask) for mask in masks.cpu()]
    return torch.cat(means), torch.cat(boxes), rles


def _probabilities(
    predictions: QueryPredictions, queries: Tensor, shown: tuple[int, int], size: tuple[int, int]
) -> Iterator[Tensor]:
    """Mask probabilities ``(m, H, W)`` of the ``queries``, a few at a time: enlarged, cut to the photo, resized."""
    features, offsets = predictions.features[0].float(), predictions.offsets_of(0)[-1]
    for chunk in queries.split(_MASKS_AT_ONCE) if len(queries) else ():
        logits = predictions.embeddings[-1, 0, chunk].float() @ features.flatten(1) + offsets[chunk, None]
        maps = logits.view(1, len(chunk), *features.shape[1:])
        maps = F.interpolate(maps, size=predictions.frame, mode="bilinear", align_corners=False)
        maps = maps[:, :, : shown[0], : shown[1]]
        yield F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0].sigmoid()
