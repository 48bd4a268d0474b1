"""Describe the photos of the gallery as JSON: boxes, masks and peaks of each stage, their kinds and reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from weaksam.evaluation.detection_errors import ERROR_KINDS, error_kinds
from weaksam.evaluation.label_reasons import labelled_boxes
from weaksam.report.gallery import StageResults, confident, spread
from weaksam.report.insights import WEAK, Insights
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances
from weaksam.structures.mask_polygons import polygons_from_rle
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask

MOST_PHOTOS = 2000
"""Photos in the gallery at most: the most doubtful training photos, and test photos at even distances."""
MOST_PROPOSALS = 20
MASK_SIDE = 112
"""Longer side, in pixels, at which a mask's outline is drawn."""
ZONES = ("believed", "ignored", "background")
LABELS, MASKS, PROPOSALS = "pseudo labels", "pseudo masks", "proposals and peaks"
SEGMENTED = "detections with masks"


@dataclass
class GalleryData:
    """What the page's script reads: ``photos`` as JSON values, of the ``samples`` in the same order, and ``reasons``.

    A photo is ``{i: id, s: split, w, h, t: labels of its tags, d: doubt or None, truth: [[x1, y1, x2, y2, label]] or
    None, layers: {stage: {b: boxes, m: numbers of missed objects, p: outlines, k: peaks}}}``; a box is ``[x1, y1, x2,
    y2, label, score, kind, zone, reason, row, chance]`` with -1 for what is not known; kinds count over `ERROR_KINDS`,
    zones over `ZONES`. ``left_out``: photos that are not shown.
    """

    stages: list[str]
    photos: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    left_out: int = 0

    def reason(self, text: str) -> int:
        """The number of a reason, which is kept once."""
        if text not in self.reasons:
            self.reasons.append(text)
        return self.reasons.index(text)


def gallery_data(results: StageResults, insights: Insights, most: int = MOST_PHOTOS) -> GalleryData:
    """Describe the photos that the gallery shows, training photos first, the most doubtful before others."""
    doubts = insights.doubts
    train = sorted(results.train.samples, key=lambda sample: (-doubts.get(sample.image_id, 0.0), sample.image_id))
    test = list(results.test.samples) if results.test is not None and results.detections else []
    shown_test = spread(test, max(most // 4, most - len(train)))
    shown_train = train[: most - len(shown_test)]
    data = GalleryData(_stages(results), left_out=len(train) + len(test) - len(shown_train) - len(shown_test))
    for split, samples in (("train", shown_train), ("test", shown_test)):
        for sample in samples:
            data.samples.append(sample)
            data.photos.append(_record(data, results, insights, split, sample))
    return data


def _stages(results: StageResults) -> list[str]:
    """The names of the layers that some photo has, as data flows."""
    stages = [PROPOSALS] if results.proposals is not None or results.peaks is not None else []
    stages += list(dict.fromkeys([*([WEAK] if results.weak_train else []), *results.detections]))
    before = stages[:2] if results.weak_train else stages[:1]
    labels = [LABELS] if results.pseudo_gt is not None else []
    masks = [MASKS] if results.pseudo_masks is not None else []
    after = [stage for stage in stages if stage not in before] + list(
        title for title in results.train_detections if title not in stages
    )
    return [*before, *labels, *after, *masks, *([SEGMENTED] if results.segmented is not None else [])]


def _record(data: GalleryData, results: StageResults, insights: Insights, split: str, sample: Sample) -> dict[str, Any]:
    truths = results.truths.get(split)
    truth = None if truths is None else truths.instances.get(sample.image_id)
    doubt_of = insights.doubts.get(sample.image_id) if split == "train" else None
    tags = sample.tags if split == "train" else tuple(results.held_out_tags.get(sample.image_id, ()))
    return {
        "i": sample.image_id,
        "s": split,
        "w": sample.size[1],
        "h": sample.size[0],
        "t": list(tags),
        "d": None if doubt_of is None else round(doubt_of, 3),
        "truth": None if truth is None else [[*_corners(box), label] for box, label in _rows(truth)],
        "layers": dict(_layers(data, results, insights, split, sample, truth)),
    }


def _layers(
    data: GalleryData,
    results: StageResults,
    insights: Insights,
    split: str,
    sample: Sample,
    truth: Instances | None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layers of one photo by stage, those that there are."""
    image_id = sample.image_id
    if split == "test":
        for title, detections in results.detections.items():
            yield title, _detections(confident(detections[image_id]), truth)
        if results.segmented is not None:
            yield SEGMENTED, _detections(confident(results.segmented[image_id]), truth)
        return
    if PROPOSALS in data.stages:
        yield PROPOSALS, _proposals(results, image_id)
    if results.weak_train is not None:
        yield WEAK, _detections(confident(results.weak_train[image_id]), truth)
    for title, by_id in results.train_detections.items():
        yield title, _detections(confident(by_id[image_id]), truth)
    if results.pseudo_gt is not None:
        yield LABELS, _labels(data, results, insights, sample, truth)
    if results.pseudo_masks is not None:
        yield MASKS, _detections(results.pseudo_masks[image_id], truth)


def _detections(instances: Instances, truth: Instances | None) -> dict[str, Any]:
    """Scored boxes with their kinds, the numbers of the missed objects, and the outlines of masks."""
    kinds, missed = _kinds(instances, truth)
    scores = [-1.0] * len(instances) if instances.scores is None else instances.scores.tolist()
    boxes = [
        _box(box, label, score, kind) for (box, label), score, kind in zip(_rows(instances), scores, kinds, strict=True)
    ]
    layer: dict[str, Any] = {"b": boxes, "m": missed}
    return layer | ({"p": [outline(rle) for rle in instances.masks]} if instances.masks is not None else {})


def _labels(
    data: GalleryData, results: StageResults, insights: Insights, sample: Sample, truth: Instances | None
) -> dict[str, Any]:
    """Believed, ignored and background boxes of a training photo with the reason of each."""
    assert results.pseudo_gt is not None
    pseudo_gt = results.pseudo_gt[sample.image_id]
    weak = None if results.weak_train is None else results.weak_train[sample.image_id]
    believed = pseudo_gt.without_crowd()
    kinds, missed = _kinds(believed, truth)
    chances = insights.trust[sample.image_id].known.nan_to_num(-1.0).tolist()
    crowd = torch.zeros(len(pseudo_gt), dtype=torch.bool) if pseudo_gt.crowd is None else pseudo_gt.crowd
    of_believed = {row: number for number, row in enumerate((~crowd).nonzero()[:, 0].tolist())}
    boxes = []
    for labelled in labelled_boxes(pseudo_gt, weak, sample.tags):
        number = of_believed.get(labelled.row)
        kind, chance = (-1, -1.0) if number is None else (kinds[number], chances[number])
        score = -1.0 if labelled.score is None else labelled.score
        place = (ZONES.index(labelled.zone), data.reason(labelled.reason), labelled.row)
        boxes.append(_box(labelled.box, labelled.label, score, kind, place, chance))
    return {"b": boxes, "m": missed}


def _proposals(results: StageResults, image_id: str) -> dict[str, Any]:
    """The best proposals, which have no class, and the peaks as ``[x, y, label]``."""
    boxes = [] if results.proposals is None else results.proposals[image_id][:MOST_PROPOSALS].tolist()
    layer: dict[str, Any] = {"b": [_box(box, -1, -1.0, -1) for box in boxes], "m": []}
    if results.peaks is not None:
        peaks = results.peaks(image_id)
        rows = zip(peaks.points.tolist(), peaks.labels.tolist(), strict=True)
        layer["k"] = [[round(x), round(y), label] for (x, y), label in rows]
    return layer


def _kinds(instances: Instances, truth: Instances | None) -> tuple[list[int], list[int]]:
    """The number of each instance's kind, and the numbers of the missed objects; -1 and none without a truth."""
    if truth is None:
        return [-1] * len(instances), []
    errors = error_kinds(truth, instances)
    return [ERROR_KINDS.index(kind) for kind in errors.kinds], errors.missed.nonzero()[:, 0].tolist()


def _box(
    box: Sequence[float],
    label: int,
    score: float,
    kind: int,
    place: tuple[int, int, int] = (-1, -1, -1),
    chance: float = -1.0,
) -> list[float]:
    return [*_corners(box), label, round(score, 3), kind, *place, round(chance, 3)]


def _corners(box: Sequence[float]) -> list[float]:
    """Corners with two decimals, enough to name the box again."""
    return [round(value, 2) for value in box]


def _rows(instances: Instances) -> Iterator[tuple[list[float], int]]:
    return zip(instances.boxes.tolist(), instances.labels.tolist(), strict=True)


def outline(rle: Rle) -> str:
    """The outline of a mask as an SVG path in photo pixels, along the pixels of a picture of side `MASK_SIDE`.

    An empty mask gives an empty path.
    """
    height, width = rle["size"]
    scale = max(1.0, max(height, width) / MASK_SIDE)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    small = Image.fromarray(mask_from_rle(rle).numpy()).resize(size, Image.Resampling.NEAREST)
    coarse = rle_from_mask(torch.from_numpy(np.asarray(small).copy()))
    factor = np.array([width / size[0], height / size[1]])
    rings = [(polygon * factor).round().astype(int).tolist() for polygon in polygons_from_rle(coarse)]
    return "".join("M" + "L".join(f"{x} {y}" for x, y in ring) + "Z" for ring in rings)
