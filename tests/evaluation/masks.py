"""Draw the masks that tests of the evaluation compare: rectangles by their corners, and random ones."""

from collections.abc import Sequence

import numpy as np
import torch

from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks, rle_from_mask

Corners = tuple[int, int, int, int]
"""x1, y1, x2, y2, half-open."""


def rectangles(
    rows: Sequence[Corners],
    labels: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
    size: tuple[int, int] = (40, 40),
    **marks: Sequence[bool],
) -> Instances:
    """Instances whose masks are rectangles in an image of ``size`` (H, W), all of class 0 without ``labels``."""
    stack = torch.zeros(len(rows), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(stack, rows, strict=True):
        mask[y1:y2, x1:x2] = True
    return Instances(
        boxes_from_masks(stack),
        torch.zeros(len(rows), dtype=torch.int64) if labels is None else torch.tensor(labels, dtype=torch.int64),
        None if scores is None else torch.tensor(scores),
        tuple(rle_from_mask(mask) for mask in stack),
        **{name: torch.tensor(flags, dtype=torch.bool) for name, flags in marks.items()},
    )


def random_sets(seed: int, num_images: int = 6, num_classes: int = 3) -> tuple[dict, dict]:
    """True and detected rectangles of several images: moved, of another class, of no object; some crowd or difficult.

    Every score occurs once, areas differ.
    """
    rng = np.random.default_rng(seed)
    truths, detections = {}, {}
    scores = rng.permutation(np.linspace(0.1, 0.99, 12 * num_images))

    def corners() -> Corners:
        x, y = rng.integers(0, 25, 2)
        width, height = rng.integers(4, 18, 2)
        return int(x), int(y), int(min(40, x + width)), int(min(40, y + height))

    for number in range(num_images):
        rows = [corners() for _ in range(int(rng.integers(0, 5)))]
        labels = rng.integers(0, num_classes, len(rows)).tolist()
        marks = {name: (rng.random(len(rows)) < 0.15).tolist() for name in ("crowd", "difficult")}
        moved = [tuple(int(side + rng.integers(-1, 2)) for side in row) for row in rows]
        guesses = [tuple(min(40, max(0, side)) for side in row) for row in moved] + [corners() for _ in range(4)]
        guessed = [*(label if rng.random() < 0.8 else 0 for label in labels), *rng.integers(0, num_classes, 4).tolist()]
        truths[str(number)] = rectangles(rows, labels, **marks)
        detections[str(number)] = rectangles(guesses, guessed, scores[12 * number :][: len(guesses)].tolist())
    return truths, detections
