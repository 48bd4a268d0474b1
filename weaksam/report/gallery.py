"""Choose a few photos and draw what each stage made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from weaksam.data.images import read_image
from weaksam.evaluation.truth import Truth
from weaksam.report.page import Gallery, Photo, Picture
from weaksam.report.pictures import Canvas
from weaksam.structures.clue_points import CLASSLESS, KIND_NAMES, KindMapsOf, PeaksOf
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

NUM_PHOTOS = 6
MAX_PROPOSALS = 20
MIN_SCORE = 0.3
MAX_DETECTIONS = 10


@dataclass(frozen=True)
class Shown:
    """What can be drawn; None or empty where a stage has not run.

    ``peaks``: image_id -> points ``(P, 2)`` xy, labels, kinds and heights ``(P,)``; ``maps``: image_id -> labels
    ``(L,)`` and maps ``(L, h, w)`` by kind; ``proposals``: boxes by image id, best first;
    ``detections``: title -> test detections by image id.
    """

    train: Dataset
    test: Dataset | None
    truths: Mapping[str, Truth | None]
    peaks: PeaksOf | None = None
    maps: KindMapsOf | None = None
    proposals: Mapping[str, Tensor] | None = None
    pseudo_gt: Mapping[str, Instances] | None = None
    pseudo_masks: Mapping[str, Instances] | None = None
    detections: Mapping[str, Mapping[str, Instances]] = field(default_factory=dict)


def galleries(shown: Shown) -> list[Gallery]:
    """The training photos with what was made of them, and the test photos with what was found there."""
    train = Gallery(
        "Training photos, from peaks to pseudo labels",
        f"Peak points of the classifier; the best {MAX_PROPOSALS} proposals (white); pseudo boxes with the score they "
        "were chosen by, true boxes dashed; the masks the segmenter answers to the pseudo boxes.",
        [_train_photo(shown, sample) for sample in spread(shown.train.samples)],
    )
    maps = Gallery(
        "Clues: class maps and their peaks",
        "One picture for every class a photo is tagged with and every kind of map: the brighter, the more the map says "
        "that the class is there (each map stretched to its range); discs are peaks, white ones of no class; true "
        "boxes of the class dashed.",
        [_clue_photo(shown, sample) for sample in spread(shown.train.samples)] if shown.maps and shown.peaks else [],
    )
    test = Gallery(
        "Test photos",
        f"Detections of score {MIN_SCORE} and more (the best {MAX_DETECTIONS}; where there are none, the best one), "
        "true boxes dashed.",
        [_test_photo(shown, sample) for sample in spread(shown.test.samples)]
        if shown.test and shown.detections
        else [],
    )
    return [maps, train, test]


def spread(samples: Sequence[Sample], count: int = NUM_PHOTOS) -> list[Sample]:
    """At most ``count`` samples at even distances, so that sorted names show every class; never chosen by result."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[place] for place in places]


def _train_photo(shown: Shown, sample: Sample) -> Photo:
    image, pictures = read_image(sample.path), []
    if shown.peaks is not None:
        points, labels = shown.peaks(sample.image_id)[:2]
        pictures.append(Picture(counted(len(labels), "peak"), Canvas(image).points(points, labels.tolist()).uri()))
    if shown.proposals is not None:
        boxes = shown.proposals[sample.image_id]
        caption = f"best {min(MAX_PROPOSALS, len(boxes))} of {len(boxes)} proposals"
        pictures.append(Picture(caption, Canvas(image).boxes(boxes[:MAX_PROPOSALS], width=1).uri()))
    if shown.pseudo_gt is not None:
        made = shown.pseudo_gt[sample.image_id]
        canvas = _true_boxes(shown, "train", sample, Canvas(image)).instances(made, captions=_scores(made))
        pictures.append(
            Picture(f"{counted(len(made), 'pseudo box', 'es')}{_true_count(shown, 'train', sample)}", canvas.uri())
        )
    if shown.pseudo_masks is not None:
        masks = shown.pseudo_masks[sample.image_id]
        pictures.append(Picture(counted(len(masks), "pseudo mask"), Canvas(image).instances(masks).uri()))
    tags = ", ".join(shown.train.classes[label] for label in sample.tags)
    return Photo(sample.image_id, tags, pictures)


def _clue_photo(shown: Shown, sample: Sample) -> Photo:
    """A photo's maps, a picture for each class and kind, with the peaks found on them."""
    assert shown.maps is not None and shown.peaks is not None
    image, pictures = read_image(sample.path), []
    labels, kinds = shown.maps(sample.image_id)
    points, owners, found_on, _ = shown.peaks(sample.image_id)
    for place, label in enumerate(labels.tolist()):
        for kind, maps in kinds.items():
            mine = (found_on == kind) & ((owners == label) | (owners == CLASSLESS))
            canvas = _true_boxes(shown, "train", sample, Canvas(image).heat(maps[place], label), label)
            canvas.points(points[mine], owners[mine].tolist())
            caption = f"{shown.train.classes[label]}, {KIND_NAMES[kind]} map: {counted(int(mine.sum()), 'peak')}"
            pictures.append(Picture(caption, canvas.uri()))
    return Photo(sample.image_id, ", ".join(shown.train.classes[label] for label in sample.tags), pictures)


def _test_photo(shown: Shown, sample: Sample) -> Photo:
    image, pictures = read_image(sample.path), []
    for title, found in shown.detections.items():
        kept = confident(found[sample.image_id])
        canvas = _true_boxes(shown, "test", sample, Canvas(image)).instances(kept, captions=_scores(kept))
        pictures.append(Picture(f"{title}: {len(kept)} shown{_true_count(shown, 'test', sample)}", canvas.uri()))
    return Photo(sample.image_id, "", pictures)


def confident(found: Instances) -> Instances:
    """The detections of score ``MIN_SCORE`` or more, at most ``MAX_DETECTIONS``, else the best one; none of none."""
    if len(found) == 0 or found.scores is None:
        return found
    order = found.scores.argsort(descending=True, stable=True)
    count = max(1, int((found.scores >= MIN_SCORE).sum()))
    return found[order[: min(count, MAX_DETECTIONS)]]


def counted(number: int, noun: str, plural: str = "s") -> str:
    """``1 peak``, ``2 peaks``."""
    return f"{number} {noun}{'' if number == 1 else plural}"


def _true_boxes(shown: Shown, split: str, sample: Sample, canvas: Canvas, label: int | None = None) -> Canvas:
    """The canvas with the true boxes, of one class where ``label`` names it."""
    truth = shown.truths[split]
    if truth is not None and sample.image_id in truth.instances:
        true = truth.instances[sample.image_id]
        canvas.boxes(true.boxes if label is None else true.boxes[true.labels == label], dashed=True)
    return canvas


def _true_count(shown: Shown, split: str, sample: Sample) -> str:
    truth: Any = shown.truths[split]
    return (
        ""
        if truth is None or sample.image_id not in truth.instances
        else f", {len(truth.instances[sample.image_id])} true"
    )


def _scores(found: Instances) -> list[str]:
    return [f"{score:.2f}" for score in (found.scores.tolist() if found.scores is not None else [])]
