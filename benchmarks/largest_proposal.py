"""Compare best boxes with the largest proposal, which tags alone could have picked, and with what the guard says.

    python benchmarks/largest_proposal.py OUT [OUT ...] [--photos 60]

Each OUT is the folder of a run whose weak detector is finished and has a frozen backbone. For every class: CorLoc (IoU
0.5) on its training photos of the best-scored proposal and of the largest, and the mean contrast of both, by which
`wsod.guard` decides (weaksam/stages/wsod/guard.py), learnt on the photos of the other folds. True boxes serve this
measurement alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from extent import open_detected
from surroundings import Photo, photos_of
from torch import Tensor

from weaksam.models.wsod.extent import CellSums
from weaksam.pipeline.state import Run
from weaksam.stages.wsod.guard import JudgedPhoto, guard_signals
from weaksam.structures.boxes import area, pairwise_iou


def some_photos(run: Run, most: int | None) -> list[Photo]:
    """What the weak detector says of the training photos, at most ``most``, evenly chosen."""
    train = run.context.train
    if most is None or most >= len(train):
        return photos_of(run)
    chosen = tuple(train.samples[number * len(train) // most] for number in range(most))
    run.context = replace(run.context, train=replace(train, samples=chosen))
    return photos_of(run)


def localised(run: Run, photos: Sequence[Photo], label: int, rows: Sequence[int]) -> float:
    """Share of the photos whose proposal of that row has IoU 0.5 with an object of the class."""
    hits = []
    for photo, row in zip(photos, rows, strict=True):
        truth = run.true_train.truths[photo.sample.image_id]
        overlap: Tensor = pairwise_iou(photo.boxes[row][None], truth.boxes[truth.labels == label])
        hits.append(float(overlap.numel() > 0 and bool(overlap.max() >= 0.5)))
    return sum(hits) / max(1, len(hits))


def rows_of(run: Run, most: int | None) -> Iterator[str]:
    """A line of the table for each class."""
    photos, settings = some_photos(run, most), run.settings.wsod.extent
    classes = run.context.train.classes
    sums = CellSums(len(classes), len(photos[0].map.features), settings.folds)
    for number, photo in enumerate(photos):
        sums.add(photo.map, photo.best(), number % settings.folds)
    of_folds, _ = sums.regressions(settings.ridge)
    judged = [
        JudgedPhoto(photo.map, photo.boxes, {c: int(photo.scores[:, c].argmax()) for c in photo.sample.tags}, weights)
        for photo, weights in zip(photos, (of_folds[n % len(of_folds)] for n in range(len(photos))), strict=True)
    ]
    signals = guard_signals(judged, len(classes), settings.ring)
    for label, name in enumerate(classes):
        tagged = [photo for photo in photos if label in photo.sample.tags]
        best = localised(run, tagged, label, [int(photo.scores[:, label].argmax()) for photo in tagged])
        largest = localised(run, tagged, label, [int(area(photo.boxes).argmax()) for photo in tagged])
        contrasts = f"{signals.best[label]:.3f} / {signals.largest[label]:.3f}"
        guarded = "yes" if label in signals.guarded else "no"
        yield f"| {name} | {len(tagged)} | {best:.2f} / {largest:.2f} | {contrasts} | {guarded} |"


def main() -> None:
    """Print a table for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="runs whose weak detector is finished")
    parser.add_argument("--photos", type=int, help="so many training photos of each run, evenly chosen; all by default")
    arguments = parser.parse_args()
    for out in arguments.outs:
        print(
            f"\n{out.name}\n| class | photos | CorLoc best / largest | contrast best / largest | guarded |", flush=True
        )
        print("|---|---|---|---|---|", flush=True)
        for line in rows_of(open_detected(out), arguments.photos):
            print(line, flush=True)


if __name__ == "__main__":
    main()
