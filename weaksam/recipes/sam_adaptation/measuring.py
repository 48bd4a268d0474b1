"""Measure a promptable segmenter by the protocol of WeSAM: IoU and F1 of every instance that a prompt names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam.recipes.sam_adaptation.instances import LabelledPhotos
from weaksam.recipes.sam_adaptation.losses import MASK_LOGIT
from weaksam.recipes.sam_adaptation.networks import AdaptableNetwork, enlarged
from weaksam.recipes.sam_adaptation.prompts import PromptKind, draw_prompts, instance_seeds
from weaksam.store.progress import progress

PROTOCOL = (
    "one prompt an instance, drawn from its true mask by (seed, photo, instance); masks from logit 0.5 on, on the "
    "network's square input; mean over the instances of a photo, then over the photos (WeSAM's)"
)


@dataclass(frozen=True)
class PromptFigures:
    """Mean IoU and F1 in [0, 1] by `PROTOCOL`, of so many instances on so many photos."""

    iou: float
    f1: float
    num_photos: int
    num_instances: int

    def as_dict(self) -> dict[str, Any]:
        """The figures with the protocol in words."""
        return {**asdict(self), "protocol": PROTOCOL}


@torch.no_grad()
def measure(
    network: AdaptableNetwork, photos: LabelledPhotos, kind: PromptKind, *, seed: int, num_points: int, title: str
) -> PromptFigures:
    """The figures of ``network`` on ``photos`` with prompts of one ``kind``; ``title`` names it in the progress.

    Instances that vanish at the network's size are left out. Without any instance left both figures are 0.
    """
    of_photos, num_instances = [], 0
    for row in progress(range(len(photos)), len(photos), title):
        view = photos.view(row, network.side, network.fit)
        if len(view.masks) == 0:
            continue
        seeds = instance_seeds(seed, photos.samples[row].image_id, len(view.masks), 0)
        prompts = draw_prompts(kind, view.masks, view.covered, seeds, num_points)
        low, _ = network.decode(network.encode([view.pixels]), 0, prompts)
        logits = enlarged(low, network.side)
        of_photos.append(instance_scores(logits.cpu() >= MASK_LOGIT, view.masks).mean(dim=0))
        num_instances += len(view.masks)
    means = torch.stack(of_photos).mean(dim=0).tolist() if of_photos else [0.0, 0.0]
    return PromptFigures(means[0], means[1], len(of_photos), num_instances)


def instance_scores(masks: Tensor, truth: Tensor) -> Tensor:
    """IoU and F1 ``(n, 2)`` in [0, 1] of ``masks`` with ``truth``, bool ``(n, H, W)``; both empty is 1."""
    overlap = (masks & truth).sum(dim=(1, 2)).double()
    sizes = masks.sum(dim=(1, 2)).double() + truth.sum(dim=(1, 2)).double()
    empty = sizes == 0
    iou = torch.where(empty, 1.0, overlap / (sizes - overlap).clamp(min=1))
    f1 = torch.where(empty, 1.0, 2 * overlap / sizes.clamp(min=1))
    return torch.stack([iou, f1], dim=1)
