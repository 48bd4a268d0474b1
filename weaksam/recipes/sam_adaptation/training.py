"""Train the low-rank updates: frozen anchor, and teacher and student that share them (WeSAM, CVPR 2024)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weaksam.config import fingerprint_of
from weaksam.engine.log import RunLog
from weaksam.engine.seeds import derive_seed
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.recipes.sam_adaptation.instances import LabelledPhotos
from weaksam.recipes.sam_adaptation.losses import WEIGHTS, dice_loss, focal_loss, iou_loss, prototypes, step_losses
from weaksam.recipes.sam_adaptation.networks import AdaptableNetwork
from weaksam.recipes.sam_adaptation.prompts import InstancePrompts, draw_prompts, instance_seeds
from weaksam.recipes.sam_adaptation.settings import AdaptSettings
from weaksam.recipes.sam_adaptation.views import NetworkView, strong_view, weak_view
from weaksam.sam.lora import add_lora, lora_state

LABEL = "adapt-sam"


@dataclass(frozen=True)
class AdaptPhoto:
    """One photo of a step: its two views, its prompts, and what its weak view is called among the anchor's."""

    weak: NetworkView
    strong: NetworkView
    prompts: InstancePrompts
    key: tuple[int, bool, bool]


@dataclass(frozen=True)
class AdaptBatch:
    """The photos of a step."""

    image_ids: tuple[str, ...]
    photos: tuple[AdaptPhoto, ...]


class LoraWeights(nn.Module):
    """All that trains: the updates of an encoder, under names without dots."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        for name, parameter in lora_state(encoder).items():
            self.register_parameter(name.replace(".", "__"), parameter)


class Adaptation:
    """The three networks and their losses; `fit` moves the updates of ``network`` alone.

    The anchor is a copy of the encoder from before the updates. Its embeddings are kept for each flip of each photo, as
    far as ``settings.max_cache_gib`` allows: it never changes.
    """

    def __init__(self, network: AdaptableNetwork, photos: LabelledPhotos, settings: AdaptSettings) -> None:
        self.network, self.photos, self.settings = network, photos, settings
        self.anchor = copy.deepcopy(network)
        self.layers = add_lora(network.encoder, settings.rank, settings.seed)
        self.weights = LoraWeights(network.encoder)
        self._kept: dict[tuple[int, bool, bool], Any] = {}
        self._bytes_left = settings.max_cache_gib * 2**30

    # Batches

    def batches(self, epoch: int) -> Iterator[AdaptBatch]:
        """The batches of an epoch: every photo once, in an order drawn by (seed, epoch)."""
        order = torch.randperm(
            len(self.photos), generator=torch.Generator().manual_seed(derive_seed(self.settings.seed, LABEL, epoch))
        ).tolist()
        for start in range(0, len(order), self.settings.batch_size):
            rows = order[start : start + self.settings.batch_size]
            yield AdaptBatch(
                tuple(self.photos.samples[row].image_id for row in rows),
                tuple(self.photo(row, epoch) for row in rows),
            )

    @property
    def batches_per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.photos) // self.settings.batch_size)

    def photo(self, row: int, epoch: int) -> AdaptPhoto:
        """Photo ``row`` as epoch ``epoch`` shows it; all draws follow from (seed, image id, epoch)."""
        settings, image_id = self.settings, self.photos.samples[row].image_id
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, LABEL, image_id, epoch))
        view = self.photos.view(row, self.network.side)
        if len(view.masks) > settings.most_masks:
            chosen = torch.randperm(len(view.masks), generator=generator)[: settings.most_masks].sort().values
            view = NetworkView(view.pixels, view.masks[chosen])
        weak, flips = weak_view(view, generator)
        seeds = instance_seeds(settings.seed, image_id, len(weak.masks), epoch + 1)
        prompts = draw_prompts(settings.prompt, weak.masks, weak.covered, seeds, settings.num_points)
        return AdaptPhoto(weak, strong_view(weak, generator), prompts, (row, *flips))

    # Losses

    def losses(self, batch: AdaptBatch) -> dict[str, Tensor]:
        """The weighted losses of a batch by their names, summed over its photos; none where no instance is left."""
        photos = [photo for photo in batch.photos if len(photo.prompts)]
        num_masks = sum(len(photo.prompts) for photo in photos)
        if num_masks == 0:
            return {}
        total: dict[str, Tensor] = {}
        seen = self.network.encode([view.pixels for photo in photos for view in (photo.weak, photo.strong)])
        for row, photo in enumerate(photos):
            for name, value in self._losses_of(photo, seen, row, num_masks).items():
                total[name] = total[name] + value if name in total else value
        wanted = {name for name in WEIGHTS if getattr(self.settings, name, True)}
        return {name: value for name, value in total.items() if name in wanted}

    def _losses_of(self, photo: AdaptPhoto, seen: Any, row: int, num_masks: int) -> dict[str, Tensor]:
        """The losses of one photo, whose weak and strong view are rows 2 ``row`` and 2 ``row`` + 1 of ``seen``."""
        student, iou = self.network.decode(seen, 2 * row + 1, photo.prompts)
        if self.settings.targets == "true":
            wanted = photo.weak.masks.to(student.device, student.dtype)
            losses = {
                "focal": focal_loss(student, wanted),
                "dice": dice_loss(student, wanted),
                "iou": iou_loss(iou, student, wanted, num_masks),
            }
            return {name: WEIGHTS[name] * value for name, value in losses.items()}
        teacher, _ = self.network.decode(seen, 2 * row, photo.prompts)
        of_teacher = self.network.embedding(seen, 2 * row)
        anchored = self.anchor_features(photo)
        with torch.no_grad():
            anchor, _ = self.anchor.decode(anchored, 0, photo.prompts)
            of_anchor = self.anchor.embedding(anchored, 0)
        return step_losses(
            student,
            iou,
            teacher,
            anchor,
            prototypes(of_teacher, teacher),
            prototypes(of_anchor, anchor),
            num_masks,
            legacy=self.settings.legacy,
        )

    @torch.no_grad()
    def anchor_features(self, photo: AdaptPhoto) -> Any:
        """What the anchor's encoder makes of the weak view, computed once for each flip where there is room."""
        if photo.key in self._kept:
            return self._kept[photo.key]
        features = self.anchor.encode([photo.weak.pixels])
        levels = [features] if isinstance(features, Tensor) else list(features)
        num_bytes = sum(level.numel() * level.element_size() for level in levels)
        if num_bytes <= self._bytes_left:
            self._bytes_left -= num_bytes
            self._kept[photo.key] = features
        return features


def train(adaptation: Adaptation, folder: Path, inputs: Sequence[str], log: RunLog | None = None) -> TrainingJob:
    """Train the updates, or load them where ``folder`` holds them; they are then in the adaptation's network.

    ``inputs``: fingerprints of the segmenter and of the photos with their labels. A killed training goes on to the same
    bytes. Raises `UserError` as `fit` does.
    """
    settings = adaptation.settings
    optimizer = torch.optim.Adam(adaptation.weights.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)

    def factor(step: int, total: int) -> float:
        return min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0

    job = TrainingJob(
        folder,
        fingerprint_of({"stage": LABEL, "settings": settings, "inputs": list(inputs)}),
        LABEL,
        settings.seed,
        num_steps=settings.steps,
        log=log,
    )
    fit(
        adaptation.weights,
        [Objective(adaptation.losses, optimizer, factor)],
        adaptation.batches,
        job,
        num_steps_per_epoch=adaptation.batches_per_epoch,
    )
    return job
