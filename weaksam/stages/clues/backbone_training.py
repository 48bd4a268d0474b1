"""Train the backbone itself on the tags, where no ImageNet weights fit the photos; all later stages start from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.data.images import read_image
from weaksam.engine.context import RunContext
from weaksam.engine.schedules import warmup_cosine
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.inputs import input_photo
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.models.cam.tag_network import TagNetwork, tag_loss, vary_view
from weaksam.stages.clues.settings import ClueSettings
from weaksam.store.store import stage_fingerprint, store_folder
from weaksam.store.weights import save_weights
from weaksam.structures.dataset import Sample

_DEEPEST = {"mobilenet_v2": "head"}
"""Feature map that a backbone's own classifier pools; ``last`` where it is not named."""


def deepest_map(backbone: BackboneSettings) -> str:
    """The name of the feature map that a backbone's own classifier pools."""
    return _DEEPEST.get(backbone.name, "last")


def adapted_backbone(context: RunContext, settings: ClueSettings) -> BackboneSettings:
    """The backbone all later stages start from: trained on the tags if ``finetune_epochs`` says so, else as it is.

    The training is sealed and resumes like every other; the second call only finds it. Useful where no ImageNet
    weights fit the photos; with them, freezing is faster (which is better there was not measured).
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
    if not adapted.is_file():
        network = _train_tag_network(context, settings, folder, fingerprint)
        save_weights(adapted, network.features.state_dict(), {"fingerprint": fingerprint})
    return context.backbone.model_copy(update={"adapted": adapted})


def tag_network_file(adapted: Path) -> Path:
    """The whole tag network's weights, beside those of its backbone."""
    return adapted.with_name("weights.safetensors")


def _train_tag_network(context: RunContext, settings: ClueSettings, folder: Path, fingerprint: str) -> TagNetwork:
    """Train backbone and classifier on the tags of the training photos."""
    seed_everything(derive_seed(context.seed, "tag network"))
    name = deepest_map(context.backbone)
    features = build_features(context.backbone, maps=(name,), frozen=False)
    network = TagNetwork(features, name, len(context.train.classes), settings.pool_sharpness).to(context.device)
    tags = context.train.tag_matrix()
    samples = list(context.train)

    def batches(epoch: int) -> Iterator[TagBatch]:
        for chunk in torch.randperm(len(samples)).split(settings.finetune_batch):
            yield TagBatch(tuple(samples[i] for i in chunk.tolist()), tags[chunk])

    photos: dict[str, Tensor] = {}

    def losses(batch: TagBatch) -> dict[str, Tensor]:
        shown = []
        for sample in batch.samples:
            if sample.image_id not in photos:
                photos[sample.image_id] = input_photo(read_image(sample.path), settings.long_side)[0].half()
            shown.append(vary_view(photos[sample.image_id].float()))
        groups = _by_shape(shown)
        total = torch.zeros((), device=context.device)
        for group in groups:
            images, wanted = torch.stack([shown[i] for i in group]), batch.tags[group]
            total = total + len(group) * tag_loss(network(images.to(context.device)), wanted.to(context.device))
        return {"tags": total / len(batch.samples)}

    optimizer = torch.optim.AdamW(
        [
            {"params": network.features.parameters(), "lr": settings.finetune_lr},
            {"params": network.head.parameters(), "lr": 20 * settings.finetune_lr},
        ],
        weight_decay=0.02,
    )
    objective = Objective(losses, optimizer, lambda step, total: warmup_cosine(step, total, min(50, total // 4)))
    job = TrainingJob(
        folder, fingerprint, "tag network", context.seed, num_epochs=settings.finetune_epochs, log=context.log
    )
    fit(network, [objective], batches, job, num_steps_per_epoch=-(-len(samples) // settings.finetune_batch))
    return network


class TagBatch(NamedTuple):
    """Photos of one step and their tags ``(B, C)``."""

    samples: tuple[Sample, ...]
    tags: Tensor

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the photos, for messages."""
        return tuple(sample.image_id for sample in self.samples)


def _by_shape(images: list[Tensor]) -> list[list[int]]:
    """Places of the images of each shape, so that equal ones go through the network together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(place)
    return list(groups.values())
