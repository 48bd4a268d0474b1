"""Results of a small run for the page, made by hand from squares and their true boxes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.helpers import instances, small_metrics
from weaksam.evaluation.truth import Truth
from weaksam.report.gallery import StageResults
from weaksam.report.insights import insights
from weaksam.report.page import Page
from weaksam.structures.clue_points import CluePoints
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask

CLASSES = ("cat", "<dog>")
COLOURS = ((220, 60, 40), (40, 90, 220))
SIZE = (60, 80)


def dataset(folder: Path, name: str, num: int) -> Dataset:
    """Photos of 80 x 60 with a square of class 0 at the left and, on every second one, one of class 1 at the right."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(num):
        image = np.full((*SIZE, 3), 150, dtype=np.uint8)
        boxes = [(5 + number % 4, 10, 30, 40)] + ([(45, 20, 75, 50)] if number % 2 else [])
        for label, (x1, y1, x2, y2) in enumerate(boxes):
            image[y1:y2, x1:x2] = COLOURS[label]
        path = folder / f"{name}_{number:04d}.png"
        Image.fromarray(image).save(path)
        truth = instances(boxes, list(range(len(boxes))))
        samples.append(Sample(path.name, path, SIZE, tuple(range(len(boxes))), truth, number + 1))
    return Dataset(name, CLASSES, (1, 2), tuple(samples))


def believed_of(truth: Instances, number: int) -> Instances:
    """The true boxes with scores; on every third photo the first is half as high, which makes it a part."""
    boxes = truth.boxes.clone()
    if number % 3 == 0:
        boxes[0, 3] = 22
    return Instances(boxes, truth.labels, torch.linspace(0.9, 0.4, len(boxes)))


def results(folder: Path, num_train: int = 6, num_test: int = 3, **changes: object) -> StageResults:
    """What all stages made of the photos; one ignored region and one rejected detection on every training photo."""
    train, test = dataset(folder / "train", "train", num_train), dataset(folder / "test", "test", num_test)
    weak, pseudo_gt, masks = {}, {}, {}
    for number, sample in enumerate(train):
        assert sample.truth is not None
        believed = believed_of(sample.truth, number)
        other = instances([(50, 2, 60, 12), (0, 50, 9, 59)], [0, 0], [0.35, 0.05])
        weak[sample.image_id] = Instances.cat([believed, other])
        crowd = torch.arange(len(believed) + 1) >= len(believed)
        pseudo_gt[sample.image_id] = Instances.cat([believed, other[torch.tensor([0])]]).replace(crowd=crowd)
        inside = torch.zeros(SIZE, dtype=torch.bool)
        inside[12:38, 8:28] = True
        masks[sample.image_id] = believed[torch.tensor([0])].replace(masks=(rle_from_mask(inside),))
    # The retrained network sees the boxes moved by 0, 1 or 2 pixels, so that photos differ in how far it agrees
    seen_again = {
        image_id: boxes.replace(boxes=boxes.boxes + number % 3) for number, (image_id, boxes) in enumerate(weak.items())
    }
    nothing = Instances.empty(scored=True)
    of_test = {s.image_id: nothing if n == 2 else believed_of(s.truth, n) for n, s in enumerate(test)}  # type: ignore[arg-type]
    given = {
        "train": train,
        "test": test,
        "truths": {"train": Truth.of(train), "test": Truth.of(test)},
        "peaks": lambda image_id: CluePoints.of(torch.tensor([[12.0, 20]]), torch.tensor([0])),
        "proposals": {s.image_id: torch.tensor([[0.0, 0, 30, 40], [45, 20, 75, 50]]) for s in train},
        "sources": {s.image_id: torch.tensor([0, 1]) for s in train},
        "pseudo_gt": pseudo_gt,
        "pseudo_masks": masks,
        "weak_train": weak,
        "train_detections": {"retrained network": seen_again},
        "detections": {"WSOD": of_test, "retrained or merged": of_test},
        "histories": {"WSOD": [{"wsddn": 2.0, "dropped_class": 0.1}, {"wsddn": 1.0, "dropped_class": 0.2}]},
        "held_out_tags": {s.image_id: s.tags for s in test},
        "labels_key": "abc",
    }
    return StageResults(**{**given, **changes})  # type: ignore[arg-type]


def page(made: StageResults) -> Page:
    """The page of these results, with a few figures."""
    metrics = {**small_metrics(), "classes": list(CLASSES)}
    record = {"settings": {"seed": 3}, "versions": {"weaksam": "0"}}
    return Page(metrics, record, [], made, insights(made))
