"""Find each tag's object by what it looks like in the other photos: multi-fold relocalisation in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from weaksam.models.wsod.targets import Seeds, empty_seeds
from weaksam.stages.wsod.seeds.given_labels import of_present, trusted_seeds
from weaksam.stages.wsod.seeds.scores import ScoreSeedSettings, separate_seeds
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.photo_labels import PhotoLabels


class RelocationSettings(ScoreSeedSettings):
    """The rule ``relocation``: the first branch is seeded by regions that the training photos agree on.

    ``docs/seeding.md`` says how it works and how its defaults were chosen.
    """

    rule: Literal["relocation"] = "relocation"
    rounds: int = Field(4, ge=1, le=50, description="rounds in which the photos agree on what the tags look like")
    start: Literal["support", "contrast"] = Field(
        "support",
        description="values of the regions before the first round: contrast suits class maps of a backbone trained on "
        "the tags",
    )
    folds: int = Field(4, ge=2, description="parts of the photos; regions are scored by classifiers of the other parts")
    ridge: float = Field(0.1, gt=0, description="shrinkage of the classifiers, relative to a feature's mean square")
    share: float = Field(
        0.7, gt=0, le=1, description="least score of a further instance, relative to the best one's of the tag"
    )
    components: int = Field(512, ge=1, description="principal components of a region that are compared")


@dataclass(frozen=True)
class Regions:
    """One photo's R regions: ``features`` (V, R, D) in V views, ``boxes`` (R, 4) xyxy, and its tags.

    ``present``: the labels (T,) of the tags. ``complete``: whether all its objects are labelled, and so are seeds.
    """

    features: Tensor
    boxes: Tensor
    present: Tensor
    complete: bool = False

    def rows(self) -> Tensor:
        """Features ``(V * R, D + 1)`` of all views, with a column of ones for the offset."""
        flat = self.features.flatten(0, 1).float()
        return torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)


def relocate(
    photos: Sequence[Regions],
    start: Sequence[Tensor],
    num_classes: int,
    *,
    rounds: int = 4,
    folds: int = 4,
    ridge: float = 0.1,
    foreground_iou: float = 0.5,
    labels: Sequence[PhotoLabels] | None = None,
) -> list[Tensor]:
    """How much each region looks like each tag's object in the other photos: values ``(R, T)`` >= 0 of every photo.

    ``start`` holds first values ``(R, T)``. In each round the best region of every tag is its seed, and
    `scores_by_others` scores the regions anew; a tag for which no region scores above 0 keeps the values it had. After
    the multi-fold training of Cinbis, Verbeek and Schmid (TPAMI 2017), which keeps a classifier from merely repeating
    the seeds it learned from; ours are the closed form, the regions left out, and the start. What was labelled on each
    photo (``labels``) stands above its seeds in every round. A photo without regions gives ``(0, T)``; no photo gives
    none.
    """
    values = list(start)
    if len(photos) == 0:
        return values
    grams = _Grams(photos, folds)
    for _ in range(rounds):
        seeds = [best_of_tags(of_photo, photo.present) for of_photo, photo in zip(values, photos, strict=True)]
        if labels is not None:
            columns = zip(seeds, values, photos, labels, strict=True)
            seeds = [
                trusted_seeds(best, of_present(value, photo.present, num_classes), photo.boxes, known)
                for best, value, photo, known in columns
            ]
        scores = scores_by_others(photos, seeds, num_classes, grams, ridge=ridge, foreground_iou=foreground_iou)
        for index, (photo, of_photo) in enumerate(zip(photos, scores, strict=True)):
            if len(of_photo):
                positive = of_photo[:, photo.present].clamp(min=0)
                values[index] = torch.where((positive > 0).any(dim=0), positive, values[index])
    return values


def best_of_tags(values: Tensor, present: Tensor) -> Seeds:
    """The best region of every tag (the first of equals) from values ``(R, T)``, weight 1; no region, no seed."""
    if len(values) == 0:
        return empty_seeds(values)
    return Seeds(values.argmax(dim=0), present, values.new_ones(len(present)))


def seeds_of_values(photo: Regions, values: Tensor, num_classes: int, *, share: float, nms_iou: float) -> Seeds:
    """Every region whose value reaches ``share`` of its tag's best, thinned tag by tag at ``nms_iou``.

    ``values (N, T)`` of the photo's N regions for its T tags. The weight is the share of the tag's best, in [``share``,
    1]; no region or no tag gives no seed.
    """
    of_classes = of_present(values, photo.present, num_classes)
    best = of_classes.amax(dim=0).clamp(min=torch.finfo(values.dtype).tiny) if len(values) else of_classes.sum(0)
    tags = torch.zeros(num_classes)
    tags[photo.present] = 1.0
    return separate_seeds(of_classes / best, tags, photo.boxes, share=share, nms_iou=nms_iou)


class _Grams:
    """What the classifiers of all rounds share: the Gram matrix of the rows of each fold."""

    def __init__(self, photos: Sequence[Regions], folds: int) -> None:
        self.fold = [index % folds for index in range(len(photos))]
        self.folds, self.width = folds, photos[0].features.shape[2] + 1
        self.of_fold = torch.zeros(folds, self.width, self.width)
        for index, photo in enumerate(photos):
            rows = photo.rows()
            self.of_fold[self.fold[index]] += rows.T @ rows


def scores_by_others(
    photos: Sequence[Regions],
    seeds: Sequence[Seeds],
    num_classes: int,
    grams: _Grams,
    *,
    ridge: float,
    foreground_iou: float,
) -> list[Tensor]:
    """Scores ``(R, C)`` of every photo's regions by classifiers that have not seen its fold.

    One ridge regression per class and fold. A region is an example of class c where it overlaps a seed of c by
    ``foreground_iou`` and no other seed more; in a photo tagged c those that touch no seed of c and are no other
    class's example are left out, for they may be further objects of c, unless it is ``complete``; all others are
    counterexamples, parts of a seed and regions much larger than it above all. ``ridge`` is relative to a feature's
    mean square; views are averaged.
    """
    right, unknown = _sums_of_folds(photos, seeds, num_classes, grams, foreground_iou)
    scores = [torch.zeros(len(photo.boxes), num_classes) for photo in photos]
    for fold in range(grams.folds):
        of_others = grams.of_fold.sum(dim=0) - grams.of_fold[fold]
        for label in range(num_classes):
            gram = of_others - (unknown[label].sum(dim=0) - unknown[label, fold])
            weights = _solve(gram, (right.sum(dim=0) - right[fold])[:, label], ridge)
            for index in range(fold, len(photos), grams.folds):
                features = photos[index].features.float().mean(dim=0)
                scores[index][:, label] = features @ weights[:-1] + weights[-1]
    return scores


def _sums_of_folds(
    photos: Sequence[Regions], seeds: Sequence[Seeds], num_classes: int, grams: _Grams, foreground_iou: float
) -> tuple[Tensor, Tensor]:
    """Per fold and class the sum of the examples' rows and the Gram matrix of the rows that are left out.

    ``(folds, D + 1, C)`` and ``(C, folds, D + 1, D + 1)``; `scores_by_others` says which rows are which.
    """
    right = torch.zeros(grams.folds, grams.width, num_classes)
    unknown = torch.zeros(num_classes, grams.folds, grams.width, grams.width)
    for index, (photo, of_photo) in enumerate(zip(photos, seeds, strict=True)):
        if len(photo.boxes) == 0:
            continue
        rows, fold, views = photo.rows(), grams.fold[index], len(photo.features)
        to_seeds = pairwise_iou(photo.boxes, photo.boxes[of_photo.roi])  # (R, S)
        nearest = _greatest(to_seeds)
        for label in photo.present.tolist():
            overlap = _greatest(to_seeds[:, of_photo.label == label])
            example = (overlap >= foreground_iou) & (overlap >= nearest)
            right[fold, :, label] += rows.T @ example.float().repeat(views)
            left_out = (overlap == 0) & (nearest < foreground_iou) & (not photo.complete)
            left_out_rows = rows[left_out.repeat(views)]
            unknown[label, fold] += left_out_rows.T @ left_out_rows
    return right, unknown


def _greatest(overlaps: Tensor) -> Tensor:
    """The greatest of overlaps ``(R, S)`` of each row, 0 for S = 0: an object may be labelled where no region is."""
    return overlaps.amax(dim=1) if overlaps.shape[1] else overlaps.new_zeros(len(overlaps))


def _solve(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Weights ``(D + 1,)`` of a ridge regression, the offset not shrunk; zeros where there is no example."""
    if not bool(right.any()):
        return torch.zeros_like(right)
    gram = gram.double()
    shrink = torch.full((len(gram),), ridge * float(gram.diagonal()[:-1].mean()) + 1e-12, dtype=torch.float64)
    shrink[-1] = 1e-9 * float(gram[-1, -1])
    return torch.linalg.solve(gram + shrink.diag(), right.double()).float()
