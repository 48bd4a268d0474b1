"""Leave out pseudo boxes that lie outside their photo, and masks of another photo's size."""

from __future__ import annotations

import torch

from weaksam.structures.boxes import clip
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances


def usable_objects(objects: Instances, sample: Sample) -> tuple[Instances, list[str]]:
    """The objects that can have a mask on the photo of ``sample``, unchanged, and a sentence about each other one.

    A box must share at least a pixel's width and height with the photo, a mask must be of its size. No object gives
    none and no sentence.
    """
    height, width = sample.size
    inside = clip(objects.boxes, sample.size)
    sides = inside[:, 2:] - inside[:, :2]
    problems: list[str] = []
    usable = torch.ones(len(objects), dtype=torch.bool)
    for row, (across, down) in enumerate(sides.tolist()):
        problem = ""
        if across < 1 or down < 1:
            corners = ", ".join(f"{value:g}" for value in objects.boxes[row].tolist())
            problem = f"a box of at least one pixel on {sample.image_id} ({width} x {height}), found ({corners})"
        elif objects.masks is not None and list(objects.masks[row]["size"]) != [height, width]:
            rows, columns = objects.masks[row]["size"]
            problem = f"a mask of {width} x {height} pixels on {sample.image_id}, found one of {columns} x {rows}"
        if problem:
            usable[row] = False
            problems.append(f"wanted {problem}: it is left out, mend the pseudo ground truth to have it")
    return (objects if not problems else objects[usable]), problems
