"""Train the network for concealed objects on fused labels, and choose among its epochs on a validation split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weaksam.config import fingerprint_of
from weaksam.engine.log import RunLog
from weaksam.engine.seeds import derive_seed
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.models.backbones.inputs import normalise
from weaksam.models.backbones.shared_batch_norm import share_batch_norm
from weaksam.models.backbones.weights import input_colours
from weaksam.models.concealed.losses import concealed_losses, uncertainty_coefficient
from weaksam.models.concealed.network import ConcealedNetwork
from weaksam.models.ranks import ranks
from weaksam.recipes.concealed.augmenting import LabelledView, augmented, view_of
from weaksam.recipes.concealed.photos import ConcealedPhotos
from weaksam.recipes.concealed.settings import ConcealedSettings, ConcealedTrainingSettings

LABEL = "concealed"
LOWEST_LR = 1e-6
"""Learning rate in the valleys of the cyclic schedule."""
HALF_PERIOD, STEP_EPOCHS = 40, 80
"""Epochs from a peak to a valley of the cyclic schedule, and from a step of the other one to the next."""

Target = Callable[[str], tuple[Tensor, Tensor]]
"""What a photo, by its id, is to teach: a mask ``(H, W)`` in [0, 1] and the weight of each of its pixels."""


@dataclass(frozen=True)
class ConcealedBatch:
    """This process's photos of a step; ``counts``: whether they are part of it, see `Ranks.share`.

    ``draws``: seed of dropout on them where several processes train.
    """

    image_ids: tuple[str, ...]
    views: tuple[LabelledView, ...]
    draws: int
    counts: bool = True


class ConcealedTraining:
    """The photos that train, and the losses of ``network`` on them."""

    def __init__(
        self, network: ConcealedNetwork, photos: ConcealedPhotos, target: Target, settings: ConcealedSettings
    ) -> None:
        self.network, self.photos, self.target, self.settings = share_batch_norm(network), photos, target, settings
        self.colours = input_colours(settings.backbone)
        self.partial = settings.training.partial and bool(photos.scribbles)
        self._share_done = 0.0

    @property
    def batches_per_epoch(self) -> int:
        """Steps of an epoch; photos that fill no batch make a smaller last one."""
        return -(-len(self.photos) // self.settings.training.batch_size)

    def batches(self, epoch: int) -> Iterator[ConcealedBatch]:
        """The batches of an epoch: every photo once, in an order drawn by (seed, epoch)."""
        generator = torch.Generator().manual_seed(derive_seed(self.settings.seed, LABEL, epoch))
        order = torch.randperm(len(self.photos), generator=generator).tolist()
        size = self.settings.training.batch_size
        for start in range(0, len(order), size):
            rows, counts = ranks().share(order[start : start + size])
            image_ids = tuple(self.photos.image_ids[row] for row in rows)
            draws = derive_seed(self.settings.seed, LABEL, "draws", epoch, *image_ids)
            views = tuple(self.view(image_id, epoch) for image_id in image_ids)
            yield ConcealedBatch(image_ids, views, draws, counts)

    def view(self, image_id: str, epoch: int) -> LabelledView:
        """A photo as epoch ``epoch`` shows it; all draws follow from (seed, image id, epoch)."""
        mask, weights = self.target(image_id)
        photos, training = self.photos, self.settings.training
        view = view_of(photos.image(image_id), mask, weights, photos.labels(image_id), training.side)
        if not training.augment:
            return view
        seed = derive_seed(self.settings.seed, LABEL, image_id, epoch)
        return augmented(view, torch.Generator().manual_seed(seed))

    def begin_step(self, step: int, total: int) -> None:
        """Note which share of the iterations is done, of the epoch or of the training, before step ``step``."""
        if self.settings.training.uncertainty == "training":
            self._share_done = step / total
        else:
            self._share_done = (step % self.batches_per_epoch) / self.batches_per_epoch

    def losses(self, batch: ConcealedBatch) -> dict[str, Tensor]:
        """The losses of this process's part of a batch by name, divided by what the whole batch has."""
        views, device = batch.views, next(self.network.parameters()).device
        pixels = torch.stack([view.pixels for view in views]).to(device)
        mask = torch.stack([view.mask for view in views]).to(device)
        weights = torch.stack([view.weights for view in views]).to(device)
        labels = torch.stack([view.labels for view in views]).to(device)
        if ranks().size > 1:  # of the global random numbers only the first process's are saved
            torch.manual_seed(batch.draws)
        losses = concealed_losses(
            self.network(normalise(pixels, self.colours)),
            mask,
            weights,
            labels if self.partial else None,
            uncertainty_coefficient(self._share_done),
            num_photos=max(1, ranks().total(len(views))),
            num_labelled=ranks().sum((labels >= 0).sum().float()),
        )
        if self.settings.training.uncertainty == "off":
            del losses["uncertainty"]
        return losses


def lr_factor(settings: ConcealedTrainingSettings, epoch: int) -> float:
    """Factor of the learning rate in ``epoch`` (0-based), see `ConcealedTrainingSettings`."""
    if settings.schedule == "steps":
        return 0.1 ** (epoch // STEP_EPOCHS)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / settings.num_epochs))
    low = min(1.0, LOWEST_LR / settings.lr)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * epoch / HALF_PERIOD))


def train(
    training: ConcealedTraining,
    folder: Path,
    inputs: Sequence[str],
    log: RunLog | None = None,
    on_epoch_end: Callable[[int], None] | None = None,
) -> TrainingJob:
    """Train the network, or load it where ``folder`` holds it.

    ``inputs``: fingerprints of all that is not in the settings: photos, labels, backbone. A killed training goes on to
    the same bytes. Raises `UserError` as `fit` does.
    """
    settings, network = training.settings, training.network
    of_training = settings.training
    optimizer = torch.optim.Adam(network.parameters(), lr=of_training.lr)
    per_epoch = training.batches_per_epoch
    what = {"stage": LABEL, "network": settings.network, "training": of_training, "targets": settings.targets}
    job = TrainingJob(
        folder,
        fingerprint_of(what | {"seed": settings.seed, "inputs": list(inputs)}),
        LABEL,
        settings.seed,
        num_epochs=of_training.num_epochs,
        log=log,
    )
    objective = Objective(
        training.losses,
        optimizer,
        lambda step, total: lr_factor(of_training, step // per_epoch),
        clip_value=of_training.clip_value,
        begin_step=training.begin_step,
    )
    fit(network, [objective], training.batches, job, num_steps_per_epoch=per_epoch, on_epoch_end=on_epoch_end)
    return job
