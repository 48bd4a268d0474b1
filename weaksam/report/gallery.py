"""Draw what each stage made of a few photos, for the page's galleries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from weaksam.data.sample_photos import read_photo
from weaksam.evaluation.truth import Truth
from weaksam.report.drawn_photos import Gallery, GalleryPhoto, Picture
from weaksam.report.pictures import Canvas
from weaksam.structures.clue_points import CLASSLESS, KIND_NAMES, KindMapsOf, PeaksOf
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

NUM_PHOTOS = 6
MAX_PROPOSALS = 20
MIN_SCORE = 0.3
MAX_DETECTIONS = 10
PICTURE_SIDE = 340
"""Longer side of a picture in the page, pixels."""
Drawing = tuple[str, Canvas]
"""A caption, and the photo with what was drawn on it."""


@dataclass(frozen=True)
class StageResults:
    """What the stages made and can be drawn; None or empty where a stage has not run.

    ``truths``: by split, None where it has none; ``peaks``: image_id -> peaks; ``maps``: image_id -> labels ``(L,)``
    and maps ``(L, h, w)`` by kind; ``proposals``: boxes ``(P, 4)`` by image id, best first; ``detections``: title ->
    test detections by image id. What follows feeds the statistics: ``sources``: what prompted each proposal ``(P,)``,
    by image id; ``weak_train``: the weak detector's detections on the training photos; ``train_detections``: title ->
    training detections of later detectors; ``segmented``: test detections with masks; ``histories``: training -> mean
    losses by epoch; ``held_out_tags``: labels of the test photos by image id, which no stage saw; ``labels_key``: hash
    of all that decides the pseudo ground truth.
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
    sources: Mapping[str, Tensor] | None = None
    weak_train: Mapping[str, Instances] | None = None
    train_detections: Mapping[str, Mapping[str, Instances]] = field(default_factory=dict)
    segmented: Mapping[str, Instances] | None = None
    histories: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    held_out_tags: Mapping[str, Sequence[int]] = field(default_factory=dict)
    labels_key: str = ""


def galleries(results: StageResults) -> list[Gallery]:
    """The class maps of a few training photos, which the page holds as pictures."""
    map_samples = spread(results.train.samples) if results.maps and results.peaks else []
    maps = Gallery(
        "Clues: class maps and their peaks",
        "One picture for every class a photo is tagged with and every kind of map: the brighter, the more the map says "
        "that the class is there (each map stretched to its range); discs are peaks, white ones of no class; true "
        "boxes of the class dashed.",
        [_gallery_photo(results, sample, clue_drawings(results, sample)) for sample in map_samples],
    )
    return [maps]


def spread(samples: Sequence[Sample], count: int = NUM_PHOTOS) -> list[Sample]:
    """At most ``count`` samples at even distances, so that sorted names show every class; never chosen by result."""
    indices = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[index] for index in indices]


def _gallery_photo(results: StageResults, sample: Sample, drawings: Sequence[Drawing]) -> GalleryPhoto:
    """The drawings of a photo with the names of its tags."""
    tags = ", ".join(results.train.classes[label] for label in sample.tags)
    return GalleryPhoto(sample.image_id, tags, [Picture(caption, canvas.uri()) for caption, canvas in drawings])


def train_drawings(results: StageResults, sample: Sample, side: int = PICTURE_SIDE) -> list[Drawing]:
    """A training photo with its peaks, its proposals, its pseudo boxes and its pseudo masks, as far as these are there.

    ``side``: longer side of each drawing in pixels.
    """
    image, drawings = read_photo(sample), []
    if results.peaks is not None:
        peaks = results.peaks(sample.image_id)
        canvas = Canvas(image, side).points(peaks.points, peaks.labels.tolist())
        drawings.append((counted(len(peaks.labels), "peak"), canvas))
    if results.proposals is not None:
        boxes = results.proposals[sample.image_id]
        caption = f"best {min(MAX_PROPOSALS, len(boxes))} of {len(boxes)} proposals"
        drawings.append((caption, Canvas(image, side).boxes(boxes[:MAX_PROPOSALS], width=1)))
    if results.pseudo_gt is not None:
        drawings.append(_pseudo_boxes(results, results.pseudo_gt[sample.image_id], sample, Canvas(image, side)))
    if results.pseudo_masks is not None:
        masks = results.pseudo_masks[sample.image_id]
        drawings.append((counted(len(masks), "pseudo mask"), Canvas(image, side).instances(masks)))
    return drawings


def _pseudo_boxes(results: StageResults, pseudo_gt: Instances, sample: Sample, canvas: Canvas) -> Drawing:
    """The pseudo boxes of a training photo over its true ones, and thin and without a colour what is ignored."""
    believed = pseudo_gt.without_crowd()
    canvas = _true_boxes(results, "train", sample, canvas)
    caption = f"{counted(len(believed), 'pseudo box', 'es')}{_true_count(results, 'train', sample)}"
    if len(believed) < len(pseudo_gt):
        assert pseudo_gt.crowd is not None
        canvas = canvas.boxes(pseudo_gt.boxes[pseudo_gt.crowd], width=1)
        caption += f"; {counted(len(pseudo_gt) - len(believed), 'ignored region')} (thin)"
    return caption, canvas.instances(believed, captions=_scores(believed))


def clue_drawings(results: StageResults, sample: Sample, side: int = PICTURE_SIDE) -> list[Drawing]:
    """A training photo's maps, a drawing for each class and kind, with the peaks found on them; none before clues."""
    if results.maps is None or results.peaks is None:
        return []
    image, drawings = read_photo(sample), []
    labels, maps_by_kind = results.maps(sample.image_id)
    peaks = results.peaks(sample.image_id)
    for index, label in enumerate(labels.tolist()):
        for kind, maps in maps_by_kind.items():
            on_map = (peaks.kinds == kind) & ((peaks.labels == label) | (peaks.labels == CLASSLESS))
            canvas = _true_boxes(results, "train", sample, Canvas(image, side).heat(maps[index], label), label)
            canvas.points(peaks.points[on_map], peaks.labels[on_map].tolist())
            caption = f"{results.train.classes[label]}, {KIND_NAMES[kind]} map: {counted(int(on_map.sum()), 'peak')}"
            drawings.append((caption, canvas))
    return drawings


def detection_drawings(results: StageResults, sample: Sample, side: int = PICTURE_SIDE) -> list[Drawing]:
    """A test photo with the confident detections of each detector over its true boxes."""
    image, drawings = read_photo(sample), []
    for title, detections in results.detections.items():
        kept = confident(detections[sample.image_id])
        canvas = _true_boxes(results, "test", sample, Canvas(image, side)).instances(kept, captions=_scores(kept))
        drawings.append((f"{title}: {len(kept)} shown{_true_count(results, 'test', sample)}", canvas))
    return drawings


def confident(detections: Instances) -> Instances:
    """The detections of score ``MIN_SCORE`` or more, at most ``MAX_DETECTIONS``, else the best one; none of none."""
    if len(detections) == 0 or detections.scores is None:
        return detections
    order = detections.scores.argsort(descending=True, stable=True)
    count = max(1, int((detections.scores >= MIN_SCORE).sum()))
    return detections[order[: min(count, MAX_DETECTIONS)]]


def counted(number: int, noun: str, plural: str = "s") -> str:
    """``1 peak``, ``2 peaks``."""
    return f"{number} {noun}{'' if number == 1 else plural}"


def _true_boxes(results: StageResults, split: str, sample: Sample, canvas: Canvas, label: int | None = None) -> Canvas:
    """The canvas with the true boxes, of one class where ``label`` names it."""
    truth = results.truths[split]
    if truth is not None and sample.image_id in truth.instances:
        objects = truth.instances[sample.image_id]
        canvas.boxes(objects.boxes if label is None else objects.boxes[objects.labels == label], dashed=True)
    return canvas


def _true_count(results: StageResults, split: str, sample: Sample) -> str:
    """How many true boxes a photo has, in words; empty where they are not known."""
    truth = results.truths[split]
    if truth is None or sample.image_id not in truth.instances:
        return ""
    return f", {len(truth.instances[sample.image_id])} true"


def _scores(instances: Instances) -> list[str]:
    """The scores as captions; none where instances have none."""
    return [] if instances.scores is None else [f"{score:.2f}" for score in instances.scores.tolist()]
