"""Train the backbone of a run on the tags of its photos; all later stages start from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.data.sample_photos import read_photo, reading_ahead
from weaksam.engine.context import RunContext
from weaksam.engine.schedules import warmup_cosine
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.inputs import input_photo
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import backbone_fingerprint, input_colours
from weaksam.models.cam.tag_network import TagNetwork, tag_loss, vary_view
from weaksam.models.ranks import ranks
from weaksam.stages.clues.settings import ClueSettings
from weaksam.store.listed_files import is_listed, list_file
from weaksam.store.store import stage_fingerprint, store_folder
from weaksam.store.weights import save_weights
from weaksam.structures.dataset import Sample
from weaksam.structures.devices import moved_together

_DEEPEST = {"mobilenet_v2": "head"}
"""Feature map that a backbone's own classifier pools; ``last`` where it is not named."""


def deepest_map(backbone: BackboneSettings) -> str:
    """The name of the feature map that a backbone's own classifier pools."""
    return _DEEPEST.get(backbone.name, "last")


def adapted_backbone(context: RunContext, settings: ClueSettings) -> BackboneSettings:
    """The backbone all later stages start from: trained on the tags if ``finetune_epochs`` says so, else as it is.

    A killed training resumes, a finished one is only loaded. Useful where no ImageNet weights fit the photos; with
    them, freezing is faster (which is better there was not measured).
    """
    if settings.finetune_epochs == 0:
        return context.backbone
    inputs = {
        "train": context.train.fingerprint,
        "backbone": backbone_fingerprint(context.backbone),
        "seed": str(context.seed),
    }
    fingerprint = stage_fingerprint("tag network", settings, inputs)
    folder = store_folder(context.out, "clues", "backbone", fingerprint)
    adapted = folder / "backbone.safetensors"
    if not is_listed(adapted):
        network = TagNetworkTraining(context, settings).run(folder, fingerprint)
        if ranks().first:
            save_weights(adapted, network.features.state_dict(), {"fingerprint": fingerprint})
            list_file(adapted)
    ranks().wait()  # until the file is there
    return context.backbone.model_copy(update={"adapted": adapted})


def tag_network_file(adapted: Path) -> Path:
    """The whole tag network's weights, beside those of its backbone."""
    return adapted.with_name("weights.safetensors")


class SampleBatch(NamedTuple):
    """Photos of one step, those that this process computes, with their tags ``(B, C)`` in {0, 1}."""

    samples: tuple[Sample, ...]
    tags: Tensor
    image_ids: tuple[str, ...]
    """Of the whole batch."""
    seeds: tuple[int, ...]
    """What the view of each photo follows from."""
    counts: bool
    """Whether the photos are part of the batch, see `Ranks.share`."""


class TagNetworkTraining:
    """Trains a backbone and a classifier on it on the tags of the training photos."""

    def __init__(self, context: RunContext, settings: ClueSettings) -> None:
        seed_everything(derive_seed(context.seed, "tag network"))
        self.context, self.settings = context, settings
        map_name = deepest_map(context.backbone)
        features = build_features(context.backbone, maps=(map_name,), frozen=False)
        network = TagNetwork(features, map_name, len(context.train.classes), settings.pool_sharpness)
        self.network = network.to(context.device)
        self.colours = input_colours(context.backbone)
        self.tags, self.samples = context.train.tag_matrix(), list(context.train)
        self._photos: dict[str, Tensor] = {}

    def run(self, folder: Path, fingerprint: str) -> TagNetwork:
        """The network after the last epoch; its weights and the state of the training lie in ``folder``."""
        context, settings = self.context, self.settings
        job = TrainingJob(
            folder, fingerprint, "tag network", context.seed, num_epochs=settings.finetune_epochs, log=context.log
        )
        num_steps = -(-len(self.samples) // settings.finetune_batch)
        fit(self.network, [self.objective()], self.batches, job, num_steps_per_epoch=num_steps)
        return self.network

    def objective(self) -> Objective:
        """The loss and its optimizer."""
        lr = self.settings.finetune_lr
        groups = [
            {"params": self.network.features.parameters(), "lr": lr},
            {"params": self.network.head.parameters(), "lr": 20 * lr},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
        return Objective(self.losses, optimizer, lambda step, total: warmup_cosine(step, total, min(50, total // 4)))

    def batches(self, epoch: int) -> Iterator[SampleBatch]:
        """All photos once, in an order that torch's global random numbers decide."""
        seed, samples = self.context.seed, self.samples
        parts = [rows.tolist() for rows in torch.randperm(len(samples)).split(self.settings.finetune_batch)]
        shares = [ranks().share(rows) for rows in parts]
        with reading_ahead([samples[row] for own, _ in shares for row in own]):
            for rows, (own, counts) in zip(parts, shares, strict=True):
                seeds = tuple(derive_seed(seed, "tag network", samples[row].image_id, epoch) for row in own)
                image_ids = tuple(samples[row].image_id for row in rows)
                of_photos = tuple(samples[row] for row in own)
                yield SampleBatch(of_photos, self.tags[list(own)], image_ids, seeds, counts)

    def losses(self, batch: SampleBatch) -> dict[str, Tensor]:
        """Mean `tag_loss` of a random view of each photo of the batch."""
        device = self.context.device
        drawn = (torch.Generator().manual_seed(seed) for seed in batch.seeds)
        photos = zip(batch.samples, drawn, strict=True)
        views = [vary_view(self._photo(sample), generator=generator) for sample, generator in photos]
        total = torch.zeros((), device=device)
        for rows in _rows_by_shape(views):
            shown = [torch.stack([views[row] for row in rows]), batch.tags[rows]]
            images, tags = moved_together(shown, device)
            total = total + len(rows) * tag_loss(self.network(images), tags)
        return {"tags": total / len(batch.image_ids)}

    def _photo(self, sample: Sample) -> Tensor:
        """The normalised photo ``(3, h, w)``, kept in memory between epochs."""
        if sample.image_id not in self._photos:
            pixels = input_photo(read_photo(sample), self.settings.long_side, self.colours)[0]
            self._photos[sample.image_id] = pixels.half()
        return self._photos[sample.image_id].float()


def _rows_by_shape(images: list[Tensor]) -> list[list[int]]:
    """Rows of the images of each shape, so that equal ones go through the network together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(row)
    return list(groups.values())
