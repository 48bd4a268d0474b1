"""Answer the prompts of some photos before and after an adaptation, for pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weaksam.engine.device import pick_device
from weaksam.recipes.sam_adaptation.adaptable import adaptable
from weaksam.recipes.sam_adaptation.instances import LabelledPhotos
from weaksam.recipes.sam_adaptation.losses import MASK_LOGIT
from weaksam.recipes.sam_adaptation.measuring import instance_scores
from weaksam.recipes.sam_adaptation.networks import AdaptableNetwork, enlarged
from weaksam.recipes.sam_adaptation.prompts import draw_prompts, instance_seeds
from weaksam.recipes.sam_adaptation.recipe import measured_photos, require_masks
from weaksam.recipes.sam_adaptation.settings import AdaptSettings
from weaksam.sam.build import build_segmenter
from weaksam.sam.lora import load_lora


@dataclass(frozen=True)
class ComparedPhoto:
    """A test photo as the network sees it, uint8 ``(h, w, 3)``, with n masks each, bool ``(n, h, w)``.

    ``iou_before``, ``iou_after``: mean over the instances, in [0, 1].
    """

    image_id: str
    image: np.ndarray
    truth: Tensor
    before: Tensor
    after: Tensor
    iou_before: float
    iou_after: float


def compared(settings: AdaptSettings, lora: Path, num: int) -> list[ComparedPhoto]:
    """``num`` test photos, spread over all of them, prompted as they are measured; none without test photos.

    Photos without an instance at the network's size are left out. Raises `UserError` as `evaluate` does.
    """
    photos = measured_photos(settings) if num else None
    if photos is None:
        return []
    require_masks(photos)
    segmenter = build_segmenter(settings.segmenter, pick_device(settings.device))
    network = adaptable(segmenter, legacy=settings.legacy)
    rows = sorted({round(row) for row in np.linspace(0, len(photos) - 1, num)})
    before = [_answered(network, photos, row, settings) for row in rows]
    load_lora(lora, network.encoder)
    after = [_answered(network, photos, row, settings) for row in rows]
    results = []
    for row, first, second in zip(rows, before, after, strict=True):
        view = photos.view(row, network.side, network.fit)
        if not len(view.masks):
            continue
        h, w = view.covered
        ious = [instance_scores(masks, view.masks)[:, 0].mean().item() for masks in (first, second)]
        cut = [masks[:, :h, :w] for masks in (view.masks, first, second)]
        image = view.pixels.permute(1, 2, 0).numpy()
        results.append(ComparedPhoto(photos.samples[row].image_id, image, *cut, *ious))
    return results


@torch.no_grad()
def _answered(network: AdaptableNetwork, photos: LabelledPhotos, row: int, settings: AdaptSettings) -> Tensor:
    """Masks of a photo's instances on the input, bool ``(n, S, S)``."""
    view = photos.view(row, network.side, network.fit)
    seeds = instance_seeds(settings.seed, photos.samples[row].image_id, len(view.masks), 0)
    prompts = draw_prompts(settings.prompt, view.masks, view.covered, seeds, settings.num_points)
    low, _ = network.decode(network.encode([view.pixels]), 0, prompts)
    return enlarged(low, network.side).cpu() >= MASK_LOGIT
