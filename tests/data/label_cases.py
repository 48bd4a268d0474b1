"""Photos with objects of every kind for the tests of label formats: holes, parts, ignored regions, odd names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from weaksam.structures.boxes import area
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_from_rle, rle_from_mask

CLASSES = ("apple", "fig tree", 'quince "A" & <b>')
SIZES = {"a b.jpg": (48, 64), "deep/füß.png": (30, 41), "empty.jpg": (20, 24), "plain.png": (50, 36)}


def shapes(size: tuple[int, int], seed: int) -> list[torch.Tensor]:
    """A disc with two holes, two parts of one object, and a blob, as masks of ``size`` that do not overlap."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    disc = (x - width * 0.3) ** 2 + (y - height * 0.4) ** 2 < (0.25 * min(size)) ** 2
    disc &= ~((x % 7 == 3) & (y % 7 == 3))
    parts = ((x > width * 0.7) & (y < height * 0.3)) | ((x > width * 0.75) & (y > height * 0.5) & (y < height * 0.6))
    draw = np.random.default_rng(seed)
    blob = (y > height * 0.75) & (x < width * 0.6) & (draw.random(size) < 0.8)
    return [torch.from_numpy(mask) for mask in (disc, parts, blob)]


def objects(image_id: str, seed: int, *, masks: bool) -> Instances:
    """The objects of a photo with scores, the last one to be ignored; boxes alone are moved off whole pixels."""
    if image_id == "empty.jpg":
        return Instances.empty(scored=True, masked=masks)
    rles = tuple(rle_from_mask(mask) for mask in shapes(SIZES[image_id], seed))
    boxes = torch.stack([box_from_rle(rle) for rle in rles])
    if not masks:
        boxes = boxes + torch.tensor([0.31, 0.12, -0.23, -0.44])
    assert bool((area(boxes) > 0).all())
    return Instances(
        boxes,
        torch.tensor([0, 2, 1]),
        torch.tensor([0.9, 0.5, 0.25]),
        rles if masks else None,
        crowd=torch.tensor([False, False, True]),
    )


def labelled(folder: Path, *, masks: bool) -> tuple[Dataset, dict[str, Instances]]:
    """Four photos in ``folder`` and their objects; one photo has none, one lies in a sub-folder."""
    samples, by_id = [], {}
    for seed, (image_id, size) in enumerate(sorted(SIZES.items())):
        path = folder / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size[1], size[0])).save(path)
        by_id[image_id] = objects(image_id, seed, masks=masks)
        samples.append(Sample(image_id, path, size, (), None, seed + 5))
    return Dataset("train", CLASSES, (1, 2, 3), tuple(samples)), by_id
