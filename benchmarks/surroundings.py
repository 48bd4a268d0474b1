"""Ask whether a box's surroundings tell its extent: move best boxes to proposals that look like the class inside alone.

    python benchmarks/surroundings.py OUT [OUT ...]

Each OUT is the folder of a run whose weak detector is finished and has a frozen backbone. The best box of every tag on
the training photos moves towards a proposal as `wsod.extent` moves detections (weaksam/models/wsod/extent.py), learnt
on the photos of the other folds. Rows give, for each choice of its settings, the share of the boxes that have an IoU of
0.5 and of 0.75 with an object of their class, and their mean IoU. Last come the boxes that the default settings leave,
enlarge and shrink, each kind as it was and after its move. True boxes serve this measurement alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from extent import open_detected
from torch import Tensor

from weaksam.engine.training_state import load_sealed
from weaksam.models.wsod.extent import CellMap, CellSums, ExtentSettings, tightened
from weaksam.pipeline.plan import with_backbone
from weaksam.pipeline.state import Run
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.store.progress import progress
from weaksam.store.weights import load_into
from weaksam.structures.boxes import area, pairwise_iou
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances

CHOICES = [
    ExtentSettings(least_iou=least_iou, power=power, share=share, ring=ring)
    for ring, least_iou, power, share in product((0.2, 0.4), (0.4, 0.6, 0.7), (1.0, 2.0, 4.0), (0.5, 0.75, 1.0))
]
"""The settings of each row."""
SAME_AREA = 0.05
"""Logarithm of the ratio of areas up to which a box is neither enlarged nor shrunk."""


@dataclass(frozen=True)
class Photo:
    """One training photo: its map, N boxes (N, 4) and their scores (N, C)."""

    sample: Sample
    map: CellMap
    boxes: Tensor
    scores: Tensor

    def best(self) -> dict[int, Tensor]:
        """The best-scored box ``(4,)`` of every tag, by label."""
        return {label: self.boxes[self.scores[:, label].argmax()] for label in self.sample.tags}


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
        if len(boxes):
            scores = detector.class_scores(sample, boxes)
            photos.append(Photo(sample, detector.cell_map(sample), boxes, scores.clone()))
    return photos


def moved(photos: Sequence[Photo], of_folds: Tensor, settings: ExtentSettings) -> dict[tuple[str, int], Tensor]:
    """The best boxes after their move, by image id and label; ``of_folds`` (folds, C, K + 1) judge each photo."""
    boxes = {}
    for number, photo in enumerate(photos):
        best, weights = photo.best(), of_folds[number % len(of_folds)]
        if best:
            seeds = Instances(torch.stack(list(best.values())), torch.tensor(list(best)), torch.ones(len(best)))
            found = tightened(seeds, photo.map, weights, photo.boxes, photo.scores, settings)
            boxes |= {(photo.sample.image_id, label): box for label, box in zip(best, found.boxes, strict=True)}
    return boxes


def ious(run: Run, boxes: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """Best IoU of each box with an object of its class, where its photo has a truth; 0 where the class has none."""
    values = []
    for (image_id, label), box in boxes.items():
        if image_id in run.true_train.truths:
            truth = run.true_train.truths[image_id]
            values.append(pairwise_iou(box[None], truth.boxes[truth.labels == label]).flatten())
    return torch.stack([of_box.max() if len(of_box) else torch.tensor(0.0) for of_box in values])


def rows(run: Run) -> Iterator[str]:
    """A line of the table for the boxes as they are, and one for each way to move them."""
    photos, settings = photos_of(run), ExtentSettings()
    sums = CellSums(len(run.context.train.classes), len(photos[0].map.features), settings.folds)
    for number, photo in enumerate(photos):
        sums.add(photo.map, photo.best(), number % settings.folds)
    of_folds, _ = sums.regressions(settings.ridge)
    yield row("best-scored box", ious(run, moved(photos, of_folds, ExtentSettings(share=0))))
    for choice in CHOICES:
        name = f"ring {choice.ring:g}, IoU {choice.least_iou:g}, score^{choice.power:g}, share {choice.share:g}"
        yield row(name, ious(run, moved(photos, of_folds, choice)))
    yield from direction_rows(run, moved(photos, of_folds, ExtentSettings(share=0)), moved(photos, of_folds, settings))


def direction_rows(
    run: Run, before: Mapping[tuple[str, int], Tensor], after: Mapping[tuple[str, int], Tensor]
) -> Iterator[str]:
    """Two lines of the table for the boxes that grew by their move, for those that shrank and for all others."""
    old, new = (torch.stack(list(boxes.values())) for boxes in (before, after))
    growth = (area(new) / area(old)).log()
    kinds = {"enlarged": growth > SAME_AREA, "shrunk": growth < -SAME_AREA, "left": growth.abs() <= SAME_AREA}
    for name, chosen in kinds.items():
        keys = [key for key, is_chosen in zip(before, chosen.tolist(), strict=True) if is_chosen]
        if keys:
            yield row(f"{name} ({len(keys)}): before", ious(run, {key: before[key] for key in keys}))
            yield row(f"{name}: after", ious(run, {key: after[key] for key in keys}))


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
