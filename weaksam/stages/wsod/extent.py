"""Learn from the training photos how far objects reach, keep it sealed, and move detections by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weaksam.config import fingerprint_of
from weaksam.engine.context import RunContext
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.training_state import load_trained, seal
from weaksam.models.ranks import ranks
from weaksam.models.wsod.extent import CellMap, CellSums, ExtentSettings, tightened
from weaksam.store.progress import progress
from weaksam.store.store import Store, store_folder
from weaksam.structures.instances import Instances

SeenPhoto = tuple[CellMap | None, Mapping[int, Tensor]]
"""Map of a photo and the best box ``(4,)`` of each of its tags, by label; no map where it has no proposal."""


class ExtentRegressions(nn.Module):
    """The regressions of every class: ``of_folds`` (folds, C, K + 1), each of the other folds' photos, and ``of_all``.

    ``of_all`` (C, K + 1) is learnt on all training photos; a photo that is none of them is judged by it.
    """

    of_folds: Tensor
    of_all: Tensor

    def __init__(self, num_classes: int, depth: int, folds: int) -> None:
        super().__init__()
        self.register_buffer("of_folds", torch.zeros(folds, num_classes, depth + 1))
        self.register_buffer("of_all", torch.zeros(num_classes, depth + 1))


@dataclass(frozen=True)
class Extent:
    """Moves the detections of a photo by what the other photos teach, see `tightened`."""

    regressions: ExtentRegressions
    folds: Mapping[str, int]
    """Fold of each training photo, by image id."""
    settings: ExtentSettings

    def moved(
        self, detections: Instances, image_id: str | None, photo: CellMap, boxes: Tensor, scores: Tensor
    ) -> Instances:
        """The ``detections`` after their move to proposals ``boxes`` (N, 4) of ``scores`` (N, C).

        ``image_id``: of the photo, None where it is none of the run's.
        """
        fold = None if image_id is None else self.folds.get(image_id)
        weights = self.regressions.of_all if fold is None else self.regressions.of_folds[fold]
        return tightened(detections, photo, weights, boxes, scores, self.settings)


def extent_key(settings: ExtentSettings, inputs: Mapping[str, str], name: str) -> str:
    """Fingerprint of what `learnt_extent` learns from ``inputs`` for the stage ``name``."""
    return fingerprint_of({"stage": f"{name} extent", "folds": settings.folds, "ridge": settings.ridge, **inputs})


def extent_inputs(weights_key: str, proposals: Store) -> dict[str, str]:
    """Fingerprints of what decides the best boxes: those of the trained weights and the training photos' proposals."""
    return {"weights": weights_key, "proposals": proposals.fingerprint}


def learnt_extent(
    context: RunContext,
    settings: ExtentSettings,
    depth: int,
    seen: Iterable[SeenPhoto],
    inputs: Mapping[str, str],
    name: str,
) -> Extent:
    """What the best box of every tag on the training photos teaches; sealed, so learnt, and ``seen`` read, once.

    ``seen``: the training photos in their order, from which the folds follow, with maps of ``depth`` channels. Photos
    without proposals teach nothing. ``inputs``: fingerprints of what decides the boxes. Lies in
    ``OUT/<name>/store/extent-*``.
    """
    key = extent_key(settings, inputs, name)
    num_classes = len(context.train.classes)
    model = ExtentRegressions(num_classes, depth, settings.folds)
    job = TrainingJob(store_folder(context.out, name, "extent", key), key, f"{name} extent", context.seed, num_epochs=0)
    with ranks().first_before_others():
        if not load_trained(model, job):
            sums = CellSums(num_classes, depth, settings.folds)
            for index, (photo, best) in enumerate(progress(seen, len(context.train), f"{name}: learning extent")):
                if photo is not None:
                    sums.add(photo, best, index % settings.folds)
            of_folds, of_all = sums.regressions(settings.ridge)
            model.of_folds.copy_(of_folds)
            model.of_all.copy_(of_all)
            seal(model, job, [])
    folds = {sample.image_id: index % settings.folds for index, sample in enumerate(context.train)}
    return Extent(model, folds, settings)
