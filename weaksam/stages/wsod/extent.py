"""Learn from the training photos how far objects reach, keep it sealed, and move detections by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from weaksam.config import fingerprint_of
from weaksam.engine.context import RunContext
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.training_state import load_trained, seal
from weaksam.models.wsod.extent import CellMap, CellSums, ExtentSettings, tightened
from weaksam.stages.wsod.examples import best_proposals
from weaksam.store.progress import progress
from weaksam.store.store import Store, store_folder
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances

if TYPE_CHECKING:
    from weaksam.stages.wsod.frozen import FrozenDetector


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

    def moved(self, detections: Instances, sample: Sample, photo: CellMap, boxes: Tensor, scores: Tensor) -> Instances:
        """The ``detections`` after their move to proposals ``boxes`` (N, 4) of ``scores`` (N, C)."""
        fold = self.folds.get(sample.image_id)
        weights = self.regressions.of_all if fold is None else self.regressions.of_folds[fold]
        return tightened(detections, photo, weights, boxes, scores, self.settings)


def learnt_extent(
    context: RunContext, detector: FrozenDetector, proposals: Store, weights_key: str, name: str
) -> Extent:
    """What the best box of every tag on the training photos teaches a trained detector; sealed, so learnt once.

    The photos' folds follow from their order. Photos without proposals teach nothing. ``weights_key``: fingerprint of
    the detector's weights. Lies in ``OUT/<name>/store/extent-*``.
    """
    settings = detector.settings.extent
    key = fingerprint_of(
        {
            "stage": f"{name} extent",
            "weights": weights_key,
            "proposals": proposals.fingerprint,
            "folds": settings.folds,
            "ridge": settings.ridge,
        }
    )
    num_classes, depth = len(context.train.classes), len(detector.model.directions)
    model = ExtentRegressions(num_classes, depth, settings.folds)
    job = TrainingJob(store_folder(context.out, name, "extent", key), key, f"{name} extent", context.seed, num_epochs=0)
    if not load_trained(model, job):
        sums = CellSums(num_classes, depth, settings.folds)
        for index, (photo, best) in enumerate(_best_boxes(context, detector, proposals)):
            if photo is not None:
                sums.add(photo, best, index % settings.folds)
        of_folds, of_all = sums.regressions(settings.ridge)
        model.of_folds.copy_(of_folds)
        model.of_all.copy_(of_all)
        seal(model, job, [])
    folds = {sample.image_id: index % settings.folds for index, sample in enumerate(context.train)}
    return Extent(model, folds, settings)


def _best_boxes(
    context: RunContext, detector: FrozenDetector, proposals: Store
) -> Iterator[tuple[CellMap | None, dict[int, Tensor]]]:
    """Map and best box of every tag of each training photo in their order; no map where there is no proposal."""
    for sample in progress(context.train, len(context.train), "wsod: learning extent"):
        boxes = best_proposals(proposals[sample.image_id], detector.settings.num_proposals)
        if len(boxes) == 0:
            yield None, {}
            continue
        scores = detector.class_scores(sample, boxes)
        yield detector.cell_map(sample), {label: boxes[scores[:, label].argmax()] for label in sample.tags}
