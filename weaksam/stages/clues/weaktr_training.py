"""Train WeakTr on image tags and keep the epoch that ranks held-out tags best."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings, UserError
from weaksam.data.tag_signal import check_tags
from weaksam.engine.log import RunLog
from weaksam.engine.mixed_precision import Precision, ScaledAdamW, autocast, forward_dtype
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.evaluation.tag_ap import tag_mean_average_precision
from weaksam.models.photo_draws import draws_of_photos
from weaksam.models.ranks import ranks
from weaksam.models.weaktr.build import build_weaktr
from weaksam.models.weaktr.checkpoints import is_trained_weaktr, save_weaktr, weaktr_fingerprint
from weaksam.models.weaktr.losses import class_scores, weaktr_losses
from weaksam.models.weaktr.network import WeakTr, WeakTrSettings
from weaksam.stages.clues.weaktr_views import TaggedViews, ViewBatch, WeakTrViewSettings
from weaksam.store.listed_files import is_listed, list_file
from weaksam.store.records import read_record, write_record
from weaksam.store.store import stage_fingerprint, store_folder
from weaksam.store.weights import load_into, load_state
from weaksam.structures.dataset import Dataset
from weaksam.structures.devices import moved_together
from weaksam.terminal import say

LABEL = "WeakTr"
SELECTION = "selection.json"
"""Beside the weights: the mean average precision of the held-out tags after every epoch."""


class WeakTrTrainingSettings(Settings):
    """How WeakTr learns from tags; the defaults are the published recipe's, see docs/weaktr.md."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"workers"})

    num_epochs: int = Field(60, ge=0, description="passes over the photos; 0 takes a trained WeakTr as it is")
    batch_size: int = Field(64, ge=1, description="photos a step")
    lr: float = Field(4e-4, gt=0, description="peak learning rate at 512 photos a step; scaled by batch_size / 512")
    warmup_epochs: float = Field(5, ge=0, description="epochs in which the rate rises from warmup_lr")
    warmup_lr: float = Field(1e-6, ge=0, description="first learning rate, not scaled")
    min_lr: float = Field(1e-5, ge=0, description="last learning rate, not scaled")
    weight_decay: float = Field(0.05, ge=0, description="decay of every weight, AdamW")
    image_size: int = Field(224, ge=16, description="side of the square views, pixels")
    views: WeakTrViewSettings = Field(WeakTrViewSettings(), description="how photos are varied")
    held_out: float = Field(
        0.1, ge=0, lt=1, description="share of the photos whose tags pick the epoch; 0 keeps the last"
    )
    precision: Precision = Field("auto", description="of the forward pass; auto: 16 bits on a GPU, float32 on the CPU")
    workers: int = Field(0, ge=0, description="processes that read and vary photos; 0: none but the trainer itself")


def split_held_out(tags: Tensor, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows of ``tags`` (N, C) to train on and rows held out, both sorted; the second has at most ``share`` of N.

    Drawn from ``seed``; a photo stays in training if it is the last there with one of its tags.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "held-out tags"))
    num_left = tags.sum(dim=0)  # (C,) photos with the class that are not held out
    held: list[int] = []
    for row in torch.randperm(len(tags), generator=generator).tolist():
        if len(held) + 1 > share * len(tags):
            break
        if bool((num_left - tags[row] >= 1)[tags[row] > 0].all()):
            num_left = num_left - tags[row]
            held.append(row)
    held_out = set(held)
    return [row for row in range(len(tags)) if row not in held_out], sorted(held)


def learning_rate(epoch: float, settings: WeakTrTrainingSettings) -> float:
    """Learning rate after ``epoch`` passes: a linear rise from ``warmup_lr``, then a cosine that ends at ``min_lr``.

    The cosine spans all epochs, as timm's does, so its first part lies under the rise. Deviation: the published code
    changes the rate once an epoch, here every step.
    """
    peak = settings.lr * settings.batch_size / 512
    if epoch < settings.warmup_epochs:
        return settings.warmup_lr + (peak - settings.warmup_lr) * epoch / settings.warmup_epochs
    cosine = 0.5 * (1 + math.cos(math.pi * epoch / settings.num_epochs))
    return settings.min_lr + (peak - settings.min_lr) * cosine


def weaktr_training_fingerprint(
    dataset: Dataset, weaktr: WeakTrSettings, training: WeakTrTrainingSettings, seed: int
) -> str:
    """SHA-256 over all that decides the trained network: photos, tags, settings, first weights and seed."""
    inputs = {"train": dataset.fingerprint, "weights": weaktr_fingerprint(weaktr), "seed": str(seed)}
    return stage_fingerprint("weaktr", training, inputs)


def weaktr_folder(out: Path, fingerprint: str) -> Path:
    """Folder of the training with this `weaktr_training_fingerprint`; ``weaktr.safetensors`` in it is what it chose."""
    return store_folder(out, "clues", "weaktr", fingerprint)


def train_weaktr(
    dataset: Dataset,
    weaktr: WeakTrSettings,
    training: WeakTrTrainingSettings,
    *,
    out: Path,
    seed: int,
    device: torch.device,
    log: RunLog | None = None,
) -> WeakTr:
    """The network that ``weaktr`` describes, trained on the tags of ``dataset``, on ``device`` and in eval mode.

    Of ``dataset`` only photos and tags are read. The epoch with the best mean average precision of tags on the held-out
    photos is kept, the latest of equals (a perfect score comes long before good maps); without held-out photos the
    last. A killed training goes on from its last saved state to the same bytes (on the CPU), a finished one is only
    loaded; with ``num_epochs`` 0 a trained WeakTr is taken as it is.

    Raises:
        UserError: tags that nothing can be learnt from (`check_tags`), weights that do not fit or need no training, or
            a loss that is not finite.
    """
    if training.num_epochs == 0:
        return build_weaktr(weaktr, len(dataset.classes), trained=True).to(device).eval()
    check_tags(dataset)
    if is_trained_weaktr(weaktr):
        _train_further(weaktr, training, log)
    fingerprint = weaktr_training_fingerprint(dataset, weaktr, training, seed)
    folder = weaktr_folder(out, fingerprint)
    seed_everything(derive_seed(seed, LABEL))
    model = build_weaktr(weaktr, len(dataset.classes)).to(device)
    chosen = folder / "weaktr.safetensors"
    if not is_listed(chosen):
        WeakTrTraining(model, dataset, training, folder, fingerprint, seed, device).run(chosen, log)
        for path in (chosen, folder / SELECTION):
            if ranks().first and path.is_file():
                list_file(path)
    ranks().wait()  # until the file is there
    load_into(model, load_state(chosen, LABEL), LABEL)
    return model.eval()


def _train_further(weaktr: WeakTrSettings, training: WeakTrTrainingSettings, log: RunLog | None) -> None:
    """Say that a trained WeakTr is trained further where the epochs are written, refuse it where nobody wrote them."""
    if "num_epochs" not in training.model_fields_set:
        raise UserError(
            f"wanted a transformer to train, found a trained WeakTr in {weaktr.weights}: set "
            "clues.weaktr_training.num_epochs=0 to take it as it is, or to the epochs that it is to be trained further"
        )
    note = f"{weaktr.weights} is a trained WeakTr, trained {training.num_epochs} epochs further; 0 takes it as it is"
    say(f"{LABEL}: {note}", error=True)
    if log is not None:
        log.write("trained further", note=note)


class WeakTrTraining:
    """Trains one network and keeps the weights of the epoch that ranks held-out tags best."""

    def __init__(
        self,
        model: WeakTr,
        dataset: Dataset,
        settings: WeakTrTrainingSettings,
        folder: Path,
        fingerprint: str,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.settings, self.folder, self.device = model, settings, folder, device
        self.fingerprint, self.seed, self.best = fingerprint, seed, folder / "best.safetensors"
        self.dtype = forward_dtype(settings.precision, device)
        tags, samples = dataset.tag_matrix(), list(dataset)
        rows, held = split_held_out(tags, settings.held_out, seed)
        make = partial(
            TaggedViews, size=settings.image_size, settings=settings.views, seed=seed, workers=settings.workers
        )
        self.photos, self.held_out = (make([samples[i] for i in part], tags[part]) for part in (rows, held))

    def run(self, chosen: Path, log: RunLog | None) -> None:
        """Train to the end and leave the chosen epoch's weights in the file ``chosen``."""
        settings = self.settings
        fit(
            self.model,
            [self.objective()],
            lambda epoch: self.photos.varied(epoch, settings.batch_size),
            TrainingJob(self.folder, self.fingerprint, LABEL, self.seed, num_epochs=settings.num_epochs, log=log),
            num_steps_per_epoch=self.photos.num_batches(settings.batch_size),
            on_epoch_end=self._keep_if_best if len(self.held_out) else None,
        )
        if ranks().first:
            self._choose(chosen)

    def objective(self) -> Objective:
        """The losses and their optimizer."""
        settings, steps = self.settings, self.photos.num_batches(self.settings.batch_size)
        optimizer = ScaledAdamW(
            self.model.parameters(), lr=1.0, weight_decay=settings.weight_decay, half=self.dtype == torch.float16
        )
        return Objective(
            lambda batch: optimizer.scaled(self._losses(batch)),
            optimizer,
            lambda step, total: learning_rate(step / steps, settings),
        )

    def _choose(self, chosen: Path) -> None:
        """Leave the chosen epoch's weights in the file ``chosen``."""
        if not len(self.held_out):
            save_weaktr(self.model, chosen, self.fingerprint)
        elif self.best.is_file():
            self.best.replace(chosen)
        elif not chosen.is_file():
            raise UserError(f"wanted the chosen weights at {chosen}, found nothing: delete {self.folder} and rerun")

    def _losses(self, batch: ViewBatch) -> dict[str, Tensor]:
        pixels, tags = moved_together([batch.pixels, batch.tags], self.device)
        with draws_of_photos(batch.seeds), autocast(self.dtype, self.device):
            output = self.model(pixels)
        share = len(batch.tags) / len(batch.image_ids)  # of the whole batch, whose mean is wanted
        return {name: share * loss for name, loss in weaktr_losses(output, tags).items()}

    def _keep_if_best(self, epoch: int) -> None:
        """Note the mean average precision of the held-out tags; keep the weights where it is the best so far."""
        if not ranks().first:
            return
        path = self.folder / SELECTION
        noted = (read_record(path) or {}).get("precision") if path.is_file() else []
        earlier = noted[:epoch] if isinstance(noted, list) else []  # one whose state was not saved is measured again
        if len(earlier) < epoch or not all(value is None or type(value) in (int, float) for value in earlier):
            raise UserError(
                f"wanted the held-out precision of {epoch} epochs in {path}, found it missing or damaged: delete "
                f"{self.folder} and rerun, which trains again"
            )
        precision = self.held_out_precision()
        if precision >= max((value for value in earlier if value is not None), default=0.0):
            save_weaktr(self.model, self.best, self.fingerprint)
        write_record(path, {"precision": [*earlier, precision]}, indent=None)

    @torch.no_grad()
    def held_out_precision(self) -> float:
        """Mean average precision of tags on the held-out photos, in [0, 1]."""
        self.model.eval()
        scores, tags = [], []
        for batch in self.held_out.whole(self.settings.batch_size):
            with autocast(self.dtype, self.device):
                scores.append(class_scores(self.model(batch.pixels.to(self.device))).cpu())
            tags.append(batch.tags)
        return tag_mean_average_precision(torch.cat(scores), torch.cat(tags))
