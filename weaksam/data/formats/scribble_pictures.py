"""Read scribbles from pictures, one for each photo, whose pixels hold the number of a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from weaksam.config import UserError, listed
from weaksam.data.annotation_folders import annotation_files
from weaksam.data.findings import Findings
from weaksam.data.formats.shapes import LabelledImage, Shape
from weaksam.data.formats.voc import read_indices
from weaksam.structures.masks import rle_from_mask

NOTHING = (0, 255)
"""Pixels that are no scribble: background, and VOC's "do not care"."""


def read_labelled(folder: Path, classes: Sequence[str], findings: Findings) -> list[LabelledImage]:
    """The scribbles of every picture (``.png``) below ``folder``, by its name without ending; its photo's name.

    Pixels hold indices, as a palette or as grey values: the class of number 1 is the first of ``classes``, 0 and 255
    are nothing. Pixels of a class that touch, also at a corner, are one scribble. What cannot be read is a fault;
    raises `UserError` for a folder without pictures.
    """
    files = annotation_files(folder, ".png", findings)
    if not files:
        raise UserError(
            f"wanted scribbles as pictures (*.png) in {folder}, found none: name the folder that holds them"
        )
    images = []
    for name, path in files.items():
        try:
            images.append(_image(name, path, classes))
        except UserError as error:
            findings.fault(str(error))
    return images


def _image(name: str, path: Path, classes: Sequence[str]) -> LabelledImage:
    """The scribbles of one picture."""
    numbers, shapes = read_indices(path), list[Shape]()
    for number in sorted(set(np.unique(numbers).tolist()) - set(NOTHING)):
        if number > len(classes):
            raise UserError(
                f"wanted indices of the {len(classes)} classes {listed(classes, 3)} in {path}, found {number}: name "
                "all classes (data.classes)"
            )
        parts, num_parts = ndimage.label(numbers == number, structure=np.ones((3, 3)))
        masks = (rle_from_mask(torch.from_numpy(parts == part)) for part in range(1, num_parts + 1))
        shapes += [Shape(name=classes[number - 1], mask=mask, scribble=True) for mask in masks]
    height, width = numbers.shape
    return LabelledImage(name, (height, width), shapes, {}, False, str(path))
