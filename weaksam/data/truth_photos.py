"""Fit what a truth states of its images to their photos: sizes, and boxes that reach out of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from weaksam.data.annotations import ImageTruth
from weaksam.data.findings import Findings
from weaksam.data.result_lists import num_different
from weaksam.data.sizes import Size, truth_size_problems
from weaksam.structures.boxes import area, clip

TOLERANCE = 0.5
"""Boxes may reach out of their photo by this many pixels: rounding, not a fault."""


def fit_to_photo(truth: ImageTruth, image_id: str, size: Size, path: Path, findings: Findings) -> ImageTruth:
    """The truth of one image with its photo's ``size`` (H, W), and boxes that reach a little out of it clipped.

    A truth of another size, and a box that lies outside of the photo with all its area, are faults.
    """
    for problem in truth_size_problems(truth, size):
        findings.fault(
            f"wanted the truth in {path} drawn on the photos as they are shown, found that {image_id} {problem}: give "
            "the photos it was drawn on, or write boxes and sizes for these"
        )
    boxes = truth.instances.boxes
    reaching = reaching_out(boxes, size)
    clipped = clip(boxes, size)
    for row in (reaching & (area(boxes) > 0) & (area(clipped) == 0)).nonzero()[:, 0].tolist():
        corners = ", ".join(f"{value:g}" for value in boxes[row].tolist())
        findings.fault(
            f"wanted boxes in their photos in {path}, found one of {image_id} ({size[1]} x {size[0]}) outside of it "
            f"({corners}): mend the box"
        )
    for _ in range(int(reaching.sum())):
        findings.guess("a box that reaches out of its photo was clipped to it", f"{path}, {image_id}")
    for _ in range(num_repeats(truth)):
        findings.guess("an object that repeats another of its photo, box and class, counts too", f"{path}, {image_id}")
    boxes = torch.where(reaching[:, None], clipped, boxes)
    return replace(truth, instances=truth.instances.replace(boxes=boxes), size=size)


def num_repeats(truth: ImageTruth) -> int:
    """How many objects of an image have the box and the class of another before them."""
    objects = truth.instances
    return len(objects) - num_different(objects) if len(objects) > 1 else 0


def reaching_out(boxes: Tensor, size: Size) -> Tensor:
    """Which of the boxes ``(N, 4)`` reach out of a photo of ``size`` (H, W), by more than half a pixel: ``(N,)``."""
    limit = torch.tensor([size[1], size[0], size[1], size[0]])
    return (boxes < -TOLERANCE).any(1) | (boxes > limit + TOLERANCE).any(1)
