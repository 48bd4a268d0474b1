"""Ask whether a box's surroundings tell its extent: choose proposals that look like the class inside, not around.

    python benchmarks/surroundings.py OUT [OUT ...]

Each OUT is the folder of a run whose weak detector is finished and has a frozen backbone. The best box of every tag on
the training photos seeds a ridge regression per class and fold over the cells of the frozen map: cells in a seed
against all others. Of the proposals that overlap a seed, that of the greatest ``p^power * contrast`` takes its place: p
is the weak detector's score of its class, contrast the mean value of its cells, by the regression of the other folds,
less that of the ring around it. Rows give the share of the boxes that have an IoU of 0.5 and of 0.75 with an object of
their class, and their mean IoU. True boxes serve this measurement alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from extent import open_detected
from torch import Tensor
from torch.nn import functional as F

from weaksam.engine.training_state import load_sealed
from weaksam.models.wsod.head import mean_class_probabilities
from weaksam.pipeline.plan import with_backbone
from weaksam.pipeline.state import Run
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.store.progress import progress
from weaksam.store.weights import load_into
from weaksam.structures.boxes import clip, pairwise_iou
from weaksam.structures.dataset import Sample

FOLDS, RIDGE, UNTAGGED = 4, 0.1, 0.3
"""Parts of the photos, shrinkage relative to a feature's mean square, and the weight of a cell on an untagged photo."""
RING, FINER = 0.2, 4
"""Width of a ring as a share of the box's sides, and how many times finer than the map its cells are read."""
CHOICES = ((0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (0.5, 4.0), (0.5, 8.0), (0.6, 4.0))
"""Least IoU with the seed and power of the score, of each row."""


@dataclass(frozen=True)
class Photo:
    """One training photo: map ``features`` (K, h, w), ``cells`` (x, y) per pixel, N boxes and their scores (N, C)."""

    sample: Sample
    features: Tensor
    cells: tuple[float, float]
    boxes: Tensor
    scores: Tensor

    def seed(self, label: int) -> Tensor:
        """The best-scored box ``(4,)`` of a class."""
        return self.boxes[self.scores[:, label].argmax()]


@torch.inference_mode()
def photos_of(run: Run) -> list[Photo]:
    """The training photos that have a proposal, with what the weak detector says of them."""
    settings, weak = run.settings.wsod, run.results["weak_detector"]
    detector = FrozenDetector(with_backbone(run, run.results["backbone"]), settings)
    load_into(detector.model, load_sealed(weak.weights, "wsod"), "wsod")
    detector.begin_detecting()
    photos = []
    for sample in progress(run.context.train, len(run.context.train), "surroundings: photos"):
        boxes = run.results["proposals"]["train"][sample.image_id]["boxes"][: settings.num_proposals]
        if len(boxes) == 0:
            continue
        outputs = detector.outputs([(sample, boxes, False), (sample, boxes, True)])
        scores = torch.stack([mean_class_probabilities(output.refine) for output in outputs]).mean(dim=0)
        view, stride = detector.photos.views(sample)[0], detector.photos.stride
        cells = (view.scale[0] / stride, view.scale[1] / stride)
        photos.append(Photo(sample, view.features.float(), cells, boxes, scores.clone()))
    return photos


def inside(photo: Photo, box: Tensor) -> Tensor:
    """Bool ``(h * w,)``: the cells whose centres lie in a box ``(4,)``."""
    height, width = photo.features.shape[1:]
    x = (torch.arange(width) + 0.5) / photo.cells[0]
    y = (torch.arange(height) + 0.5) / photo.cells[1]
    return (((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))).flatten()


def sums(photo: Photo, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weighted Gram matrices ``(C, 2, K + 1, K + 1)`` of cells outside and in the seeds, and the sums of their rows.

    The last entry of a row is 1, so the last sum counts cells.
    """
    rows = photo.features.flatten(1).T
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    whole = rows.T @ rows
    grams = (UNTAGGED * whole).expand(num_classes, 2, -1, -1).clone()
    totals = (UNTAGGED * rows.sum(dim=0)).expand(num_classes, 2, -1).clone()
    grams[:, 1], totals[:, 1] = 0, 0
    for label in photo.sample.tags:
        seeded = rows[inside(photo, photo.seed(label))]
        grams[label, 1], totals[label, 1] = seeded.T @ seeded, seeded.sum(dim=0)
        grams[label, 0], totals[label, 0] = whole - grams[label, 1], rows.sum(dim=0) - totals[label, 1]
    return grams, totals


def regressions(photos: Sequence[Photo], num_classes: int) -> Tensor:
    """Weights ``(FOLDS, C, K + 1)`` learnt on the photos of the other folds, cells in and outside weighing the same."""
    depth = len(photos[0].features) + 1
    grams, totals = torch.zeros(FOLDS, num_classes, 2, depth, depth), torch.zeros(FOLDS, num_classes, 2, depth)
    for number, photo in enumerate(photos):
        gram, total = sums(photo, num_classes)
        grams[number % FOLDS] += gram
        totals[number % FOLDS] += total
    others_gram = (grams.sum(dim=0) - grams).double()
    others = (totals.sum(dim=0) - totals).double()
    num = others[..., -1:].clamp(min=1)
    left = (others_gram / num[..., None]).sum(dim=2)
    shrink = RIDGE * left.diagonal(dim1=-2, dim2=-1)[..., :-1].mean(dim=-1)
    size = torch.cat([shrink[..., None].expand(-1, -1, depth - 1), torch.full((FOLDS, num_classes, 1), 1e-9)], dim=-1)
    right = (others / num)[:, :, 1] - (others / num)[:, :, 0]
    return torch.linalg.solve(left + torch.diag_embed(size), right).float()


def contrast(photo: Photo, weights: Tensor, boxes: Tensor) -> Tensor:
    """Mean value ``(N,)`` in each box (N, 4) less that of the ring around it, by regression ``weights`` (K + 1,)."""
    values = torch.einsum("k,khw->hw", weights[:-1], photo.features) + weights[-1]
    values = F.interpolate(values[None, None], scale_factor=FINER, mode="bilinear", align_corners=False)[0, 0]
    integral = F.pad(values.cumsum(0).cumsum(1), (1, 0, 1, 0))
    margin = RING * (boxes[:, 2:] - boxes[:, :2])
    larger = clip(torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1), photo.sample.size)
    (total, area), (total_larger, area_larger) = (summed(integral, photo, of) for of in (boxes, larger))
    ring = (total_larger - total) / (area_larger - area).clamp(min=1)
    return total / area.clamp(min=1) - ring


def summed(integral: Tensor, photo: Photo, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the values in each box ``(N, 4)`` and its number of cells, from an integral image."""
    scale = FINER * boxes.new_tensor([*photo.cells, *photo.cells])
    limit = boxes.new_tensor([integral.shape[1] - 1, integral.shape[0] - 1] * 2)
    x1, y1, x2, y2 = (boxes * scale).round().clamp(min=0).minimum(limit).long().T
    total = integral[y2, x2] - integral[y1, x2] - integral[y2, x1] + integral[y1, x1]
    return total, ((x2 - x1) * (y2 - y1)).float()


def chosen(photo: Photo, label: int, weights: Tensor, least_iou: float, power: float) -> Tensor:
    """The box ``(4,)`` that takes the place of the seed of a class."""
    near = pairwise_iou(photo.seed(label)[None], photo.boxes)[0] >= least_iou
    boxes, scores = photo.boxes[near], photo.scores[near, label]
    return boxes[(scores.log() * power + contrast(photo, weights, boxes).clamp(min=1e-6).log()).argmax()]


def ious(run: Run, boxes: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """Best IoU of each box with an object of its class, where its photo has a truth; 0 where the class has none."""
    values = []
    for (image_id, label), box in boxes.items():
        if image_id in run.true_train.truths:
            truth = run.true_train.truths[image_id]
            values.append(pairwise_iou(box[None], truth.boxes[truth.labels == label]).flatten())
    return torch.stack([of_box.max() if len(of_box) else torch.tensor(0.0) for of_box in values])


def rows(run: Run) -> Iterator[str]:
    """A line of the table for the seeds, and one for each way to choose."""
    photos = photos_of(run)
    weights = regressions(photos, len(run.context.train.classes))
    pairs = [(number, photo, label) for number, photo in enumerate(photos) for label in photo.sample.tags]
    seeds = {(photo.sample.image_id, label): photo.seed(label) for _, photo, label in pairs}
    yield row("best-scored box", ious(run, seeds))
    for least_iou, power in CHOICES:
        moved = {
            (photo.sample.image_id, label): chosen(photo, label, weights[number % FOLDS, label], least_iou, power)
            for number, photo, label in pairs
        }
        yield row(f"IoU {least_iou:g}, p^{power:g} x contrast", ious(run, moved))


def row(name: str, values: Tensor) -> str:
    """A line of the table: shares of IoU 0.5 and 0.75, mean IoU."""
    figures = ((values >= 0.5).float().mean(), (values >= 0.75).float().mean(), values.mean())
    return "| " + " | ".join([name, *(f"{float(figure):.3f}" for figure in figures)]) + " |"


def main() -> None:
    """Print a table for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="runs whose weak detector is finished")
    for out in parser.parse_args().outs:
        print(f"\n{out}\n| box of every tag | IoU 0.5 | IoU 0.75 | mean IoU |\n|---|---|---|---|", flush=True)
        for line in rows(open_detected(out)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
