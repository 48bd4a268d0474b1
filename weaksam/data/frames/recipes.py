"""Hold the published recipes of the four detectors that are retrained on pseudo labels, as numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How one detector is trained: photos a step, learning rate, length, and the sizes that photos are shown in.

    Of WeakSAM (arXiv 2402.14812) as its released configurations have it: Faster R-CNN and DINO as for VOC 2007, Mask
    R-CNN and Mask2Former as for VOC 2012. ``num_steps`` or ``num_epochs`` is the length, the other is 0; ``milestones``
    are counted in the same unit, and each divides the learning rate by ten. ``short_sides``: of a training view, in
    pixels, at most ``longest`` long; Mask2Former's are 0.1 to 2 times 1,024, cut to 1,024.
    """

    masks: bool
    lr: float
    weight_decay: float
    milestones: tuple[int, ...]
    short_sides: tuple[int, ...]
    longest: int
    num_steps: int = 0
    num_epochs: int = 0
    warmup_steps: int = 0
    repeats: int = 1
    """How often an epoch shows each photo."""


BATCH_SIZE = 16
"""Photos a step, on all devices together."""
RECIPES = {
    "faster_rcnn": Recipe(
        masks=False,
        lr=0.02,
        weight_decay=1e-4,
        num_steps=9000,
        milestones=(6000, 8000),
        warmup_steps=30,
        short_sides=tuple(range(480, 1217, 32)),
        longest=2000,
    ),
    "dino": Recipe(
        masks=False,
        lr=9e-5,
        weight_decay=1e-4,
        num_epochs=14,
        milestones=(8, 10, 12),
        repeats=3,
        short_sides=tuple(range(480, 801, 32)),
        longest=1333,
    ),
    "mask_rcnn": Recipe(
        masks=True,
        lr=0.02,
        weight_decay=1e-4,
        num_steps=9000,
        milestones=(6000, 8000),
        warmup_steps=100,
        short_sides=tuple(range(640, 801, 32)),
        longest=1333,
    ),
    "mask2former": Recipe(
        masks=True,
        lr=1e-4,
        weight_decay=0.05,
        num_steps=33069,
        milestones=(29395, 31844),
        short_sides=(1024,),
        longest=1024,
    ),
}
"""By the detector's name; those with masks need masks to train on."""


def recipes_for(has_masks: bool) -> dict[str, Recipe]:
    """The recipes that a set of labels can train."""
    return {name: recipe for name, recipe in RECIPES.items() if has_masks or not recipe.masks}
