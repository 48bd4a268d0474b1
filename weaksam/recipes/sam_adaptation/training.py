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
from weaksam.engine.weight_average import WeightAverage
from weaksam.models.ranks import ranks
from weaksam.recipes.sam_adaptation.anchor import KeptAnchor, ViewKey
from weaksam.recipes.sam_adaptation.instances import LabelledPhotos
from weaksam.recipes.sam_adaptation.losses import WEIGHTS, dice_loss, focal_loss, iou_loss, prototypes, step_losses
from weaksam.recipes.sam_adaptation.networks import AdaptableNetwork, enlarged
from weaksam.recipes.sam_adaptation.prompts import InstancePrompts, draw_prompts, instance_seeds
from weaksam.recipes.sam_adaptation.settings import AdaptSettings
from weaksam.recipes.sam_adaptation.views import NetworkView, strong_view, weak_view
from weaksam.sam.lora import add_lora, lora_state
from weaksam.sam.recomputing import recompute_blocks

LABEL = "adapt-sam"


@dataclass(frozen=True)
class AdaptPhoto:
    """One photo of a step: its two views, its prompts, and what its weak view is called among the anchor's.

    ``numbers``: which of the photo's instances the prompts are for.
    """

    weak: NetworkView
    strong: NetworkView
    prompts: InstancePrompts
    key: ViewKey
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class AdaptBatch:
    """The photos of a step, or those of this rank, and whether they count, see `Ranks.share`."""

    image_ids: tuple[str, ...]
    photos: tuple[AdaptPhoto, ...]
    counts: bool = True


class LoraWeights(nn.Module):
    """All that trains: the updates of an encoder, under names without dots."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        for name, parameter in lora_state(encoder).items():
            self.register_parameter(name.replace(".", "__"), parameter)


class Adaptation:
    """The three networks and their losses; `fit` moves the updates of ``network`` alone.

    The anchor is a copy of the encoder from before the updates. It never changes, so what it says of a flip of a photo
    is kept, see `KeptAnchor`.
    """

    def __init__(self, network: AdaptableNetwork, photos: LabelledPhotos, settings: AdaptSettings) -> None:
        self.network, self.photos, self.settings = network, photos, settings
        self.anchor = KeptAnchor(copy.deepcopy(network), settings.max_cache_gib, fixed=settings.prompt != "point")
        self.layers = add_lora(network.encoder, settings.rank, settings.seed)
        if settings.recompute:
            recompute_blocks(network.encoder, self.layers)
        self.weights = LoraWeights(network.encoder)
        self.average: WeightAverage | None = None
        """Of the updates, which then make the pseudo labels."""

    # Batches

    def batches(self, epoch: int) -> Iterator[AdaptBatch]:
        """The batches of an epoch: every photo once, in an order drawn by (seed, epoch); of them this rank's photos."""
        order = torch.randperm(
            len(self.photos), generator=torch.Generator().manual_seed(derive_seed(self.settings.seed, LABEL, epoch))
        ).tolist()
        for start in range(0, len(order), self.settings.batch_size):
            rows, counts = ranks().share(order[start : start + self.settings.batch_size])
            yield AdaptBatch(
                tuple(self.photos.samples[row].image_id for row in rows),
                tuple(self.photo(row, epoch) for row in rows),
                counts,
            )

    @property
    def batches_per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.photos) // self.settings.batch_size)

    def photo(self, row: int, epoch: int) -> AdaptPhoto:
        """Photo ``row`` as epoch ``epoch`` shows it; all draws follow from (seed, image id, epoch)."""
        settings, image_id = self.settings, self.photos.samples[row].image_id
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, LABEL, image_id, epoch))
        view = self.photos.view(row, self.network.side, self.network.fit)
        chosen = torch.arange(len(view.masks))
        if len(view.masks) > settings.most_masks:
            chosen = torch.randperm(len(view.masks), generator=generator)[: settings.most_masks].sort().values
        weak, flips = weak_view(NetworkView(view.pixels, view.masks[chosen]), generator)
        seeds = instance_seeds(settings.seed, image_id, len(view.masks), epoch + 1)
        numbers = tuple(chosen.tolist())
        own_seeds = tuple(seeds[number] for number in numbers)
        prompts = draw_prompts(settings.prompt, weak.masks, weak.covered, own_seeds, settings.num_points)
        return AdaptPhoto(weak, strong_view(weak, generator), prompts, ViewKey(row, *flips), numbers)

    # Losses

    def losses(self, batch: AdaptBatch) -> dict[str, Tensor]:
        """The weighted losses of a batch by their names, summed over its photos; none where no instance is left."""
        photos = [photo for photo in batch.photos if len(photo.prompts)]
        num_masks = ranks().total(sum(len(photo.prompts) for photo in photos))
        if not photos:
            return {}
        total: dict[str, Tensor] = {}
        averaged = self._averaged_labels(photos)
        seen = self.network.encode([view.pixels for photo in photos for view in (photo.weak, photo.strong)])
        for row, photo in enumerate(photos):
            losses = self._losses_of(photo, seen, row, num_masks, averaged[row] if averaged else None)
            total = {name: value + total[name] if total else value for name, value in losses.items()}
        return {name: value for name, value in total.items() if getattr(self.settings, name, True)}

    def _losses_of(
        self, photo: AdaptPhoto, seen: Any, row: int, num_masks: int, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses of one photo, whose weak and strong view are rows 2 ``row`` and 2 ``row`` + 1 of ``seen``.

        ``labels``, bool ``(n, S, S)``: pseudo labels instead of the teacher's masks.
        """
        side = self.network.side
        low, iou = self.network.decode(seen, 2 * row + 1, photo.prompts)
        student = enlarged(low, side)
        if self.settings.targets == "true":
            wanted = photo.weak.masks.to(student.device, student.dtype)
            losses = {
                "focal": focal_loss(student, wanted),
                "dice": dice_loss(student, wanted),
                "iou": iou_loss(iou, student, wanted, num_masks),
            }
            return {name: WEIGHTS[name] * value for name, value in losses.items()}
        low, _ = self.network.decode(seen, 2 * row, photo.prompts)
        teacher = enlarged(low, side)
        anchor = self.anchor.answer(photo.weak.pixels, photo.key, photo.prompts, photo.numbers)
        return step_losses(
            student,
            iou,
            teacher,
            anchor.masks,
            prototypes(self.network.embedding(seen, 2 * row), low),
            anchor.prototypes,
            num_masks,
            pseudo_labels=labels,
            legacy=self.settings.legacy,
        )

    @torch.no_grad()
    def _averaged_labels(self, photos: Sequence[AdaptPhoto]) -> list[Tensor]:
        """Pseudo labels ``(n, S, S)`` of each photo by the average of the updates; none where no average is kept."""
        if self.average is None:
            return []
        trained = [parameter.detach().clone() for parameter in self.weights.parameters()]
        self.average.put_in()
        seen = self.network.encode([photo.weak.pixels for photo in photos])
        labels = [
            enlarged(self.network.decode(seen, row, photo.prompts)[0], self.network.side) > 0
            for row, photo in enumerate(photos)
        ]
        for parameter, value in zip(self.weights.parameters(), trained, strict=True):
            parameter.copy_(value)
        return labels


def train(adaptation: Adaptation, folder: Path, inputs: Sequence[str], log: RunLog | None = None) -> TrainingJob:
    """Train the updates, or load them where ``folder`` holds them; they are then in the adaptation's network.

    ``inputs``: fingerprints of the segmenter and of the photos with their labels. A killed training goes on to the same
    bytes. Raises `UserError` as `fit` does.
    """
    settings = adaptation.settings
    optimizer = torch.optim.Adam(adaptation.weights.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    if settings.ema is not None:
        adaptation.average = WeightAverage(optimizer, settings.ema)

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
