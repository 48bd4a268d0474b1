"""Measure detections on disk against a truth on disk, without a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.annotations import tag_labels
from weaksam.data.detection_files import read_detections
from weaksam.data.formats.tags import read_tags
from weaksam.data.image_names import ImageNames, number_in, read_image_list
from weaksam.data.proposals.exchange import named_proposals
from weaksam.data.truth import read_measured_truth
from weaksam.evaluation.coco import coco_ap
from weaksam.evaluation.corloc import (
    corloc,
    largest_proposal_detections,
    random_proposal_corloc,
    whole_image_detections,
)
from weaksam.evaluation.protocol import DetectionFilter, check_iou, keep_detections
from weaksam.evaluation.stage_figures import Detections
from weaksam.evaluation.text import number
from weaksam.evaluation.truth import Truth
from weaksam.evaluation.voc import MASK_IOUS, voc_ap
from weaksam.structures.dataset import Dataset, Sample

METRICS = ("voc", "voc11", "corloc", "coco", "mask")
"""VOC AP (all-point), VOC AP (11-point), CorLoc, COCO box AP, and mask AP (VOC at four IoUs, and COCO)."""
Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Measured:
    """What is measured: detections that passed ``keep``, the truth, and the proposals for CorLoc's baselines."""

    truth: Truth
    found: Detections
    keep: DetectionFilter
    pixel_inclusive: bool
    proposals: Mapping[str, Tensor] | None


def evaluate_files(
    truth: Path,
    detections: Path,
    metrics: Sequence[str],
    *,
    images: Path | None = None,
    image_list: Path | None = None,
    classes: Sequence[str] | None = None,
    tags: Path | None = None,
    proposals: Path | None = None,
    keep: DetectionFilter | None = None,
    pixel_inclusive: bool = False,
) -> Figures:
    """The figures named in ``metrics`` by name, each with its protocol.

    ``truth``: COCO JSON, a folder of VOC XML or of YOLO labels; ``detections``: see `read_detections`. Only images with
    a photo in ``images`` and in ``image_list`` count, all where neither is given. ``classes`` orders the classes of VOC
    and YOLO, as category ids count them. CorLoc's tags are those of ``tags``, else the classes of an image's true
    objects, difficult ones aside; with ``proposals`` its baselines are measured beside it. ``pixel_inclusive``: see
    `voc_ap`; for two COCO files only, since all else is converted when it is read. Raises `UserError`.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise UserError(f"wanted metrics among {', '.join(METRICS)}, found {unknown or 'none'}: name some of them")
    if pixel_inclusive and not truth.suffix.lower() == detections.suffix.lower() == ".json":
        raise UserError(
            f"wanted two COCO files for --pixel-inclusive, found {truth} and {detections}, whose corners are converted "
            "when they are read: leave it out"
        )
    every, counted, notes = dataset_of(truth, images, image_list, classes)
    keep = keep or DetectionFilter()
    found = read_detections(detections, every)
    dataset = dataclasses.replace(every, samples=tuple(every.by_id[name] for name in counted))
    true = Truth.of(dataset)
    assert true is not None
    if tags is not None:
        true = dataclasses.replace(true, tags=tags_of(tags, dataset))
    thinned = {image_id: keep_detections(found[image_id], keep) for image_id in dataset.image_ids}
    boxes = None if proposals is None else proposal_boxes(proposals, dataset)
    measured = Measured(true, thinned, keep, pixel_inclusive, boxes)
    figures: Figures = {}
    for name in metrics:
        figures |= _MEASURES[name](measured)
    return {name: {"classes": list(dataset.classes), **_with_notes(one, notes)} for name, one in figures.items()}


def _with_notes(one: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    return {**one, "protocol": "; ".join([one["protocol"], *notes])}


def detection_filter(min_score: float | None, nms_iou: float | None, max_boxes: int | None) -> DetectionFilter:
    """The filter that detections pass before anything is measured; `UserError` for an IoU outside (0, 1]."""
    if nms_iou is not None:
        check_iou(nms_iou)
    return DetectionFilter(min_score, nms_iou, max_boxes)


def parse_classes(text: str | None) -> tuple[str, ...] | None:
    """Class names of ``a,b,c`` or of a file with one a line; None for None. Raises `UserError` for repeated ones."""
    if text is None:
        return None
    lines = Path(text).read_text(encoding="utf-8").splitlines() if Path(text).is_file() else text.split(",")
    names = tuple(name.strip() for name in lines if name.strip())
    if not names or len(set(names)) < len(names):
        raise UserError(f"wanted class names, each once, in {text!r}, found {listed(names) or 'none'}: mend the list")
    return names


def dataset_of(
    truth: Path, images: Path | None = None, image_list: Path | None = None, classes: Sequence[str] | None = None
) -> tuple[Dataset, tuple[str, ...], tuple[str, ...]]:
    """All images and objects of a truth as a dataset, the ids of those that count, and notes on the others.

    Photos need not be there, but for YOLO labels. An image that the truth does not number has the number in its name.
    """
    read, counted, notes = read_measured_truth(truth, images, classes)
    stated = (number_in(name) if one.number is None else one.number for name, one in read.images.items())
    numbers = {name: found for name, found in zip(read.images, stated, strict=True) if found is not None}
    if len(set(numbers.values())) < len(read.images):  # not one each: numbers that no file of results has
        numbers = {name: -place for place, name in enumerate(read.images, start=1)}
    samples = [
        Sample(name, Path(name), one.size or (0, 0), tag_labels(one.instances), one.instances, numbers[name])
        for name, one in sorted(read.images.items())
    ]
    if not samples:
        raise UserError(f"wanted images in {truth}, found none: name the file that lists them")
    if image_list is not None:
        counted = _listed(counted, image_list, truth)
    return Dataset(truth.stem, read.classes, read.category_ids, tuple(samples)), tuple(sorted(counted)), notes


def _listed(counted: Sequence[str], image_list: Path, truth: Path) -> tuple[str, ...]:
    """Those of the images ``counted`` that a list names; `UserError` where it names others."""
    names = read_image_list(image_list)
    known = ImageNames(counted)
    found = {name: known.find(name, str(image_list)) for name in names.names}
    lost = [name for name, image_id in found.items() if image_id is None]
    if lost:
        raise UserError(
            f"wanted all {len(found)} images of {image_list} in {truth}, found none for {len(lost)} of them "
            f"({listed(lost, 3)}): give the truth that holds them"
        )
    return tuple(image_id for image_id in found.values() if image_id is not None)


def tags_of(path: Path, dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Labels by image id of a tag file, see `read_tags`; rows of other images take no part. Raises `UserError`."""
    label_of = {name: label for label, name in enumerate(dataset.classes)}
    known = ImageNames(dataset.image_ids)
    tags: dict[str, tuple[int, ...]] = {}
    for row, names in read_tags(path, split="trainval").rows.items():
        unknown = next((name for name in names if name not in label_of), None)
        image_id = known.find(row, str(path))
        if image_id is not None and unknown is not None:
            raise UserError(
                f"wanted one of the classes {listed(dataset.classes)} for {row} in {path}, found {unknown!r}"
                f"{did_you_mean(unknown, dataset.classes)}: use the names of the truth"
            )
        if image_id is not None:
            tags[image_id] = tuple(sorted({*tags.get(image_id, ()), *(label_of[name] for name in names)}))
    if not tags:
        raise UserError(f"wanted tags of the {len(dataset)} images of {dataset.name} in {path}, found none of them")
    return tags


def proposal_boxes(path: Path, dataset: Dataset) -> dict[str, Tensor]:
    """Proposals ``(P, 4)`` by image id, of a store, COCO results or a flat table; none where it has none."""
    unsized = [sample.image_id for sample in dataset if 0 in sample.size]
    if unsized:
        raise UserError(
            f"wanted the sizes of all images for CorLoc's baselines, found none for {listed(unsized, 3)}: give "
            "--images DIR"
        )
    names = ImageNames(dataset.image_ids, {sample.image_id: sample.number for sample in dataset})
    return {image_id: one.boxes for image_id, one in named_proposals(path, names)[0].items()}


def _voc(interpolation: Any, name: str) -> Callable[[Measured], Figures]:
    def measure(one: Measured) -> Figures:
        arguments = (one.truth.instances, one.found, one.truth.num_classes)
        result = voc_ap(
            *arguments,
            ious=(0.5, 0.75),
            interpolation=interpolation,
            pixel_inclusive=one.pixel_inclusive,
            keep=one.keep,
        )
        return {name: result.as_dict()}

    return measure


def _corloc(one: Measured) -> Figures:
    """CorLoc and, with proposals, what the largest, the whole image and a random one would reach."""
    true, tags, count = one.truth.instances, one.truth.tags, one.truth.num_classes
    mine = corloc(true, one.found, tags, count).as_dict()
    if one.keep != DetectionFilter():
        mine = _with_notes(mine, [str(one.keep)])
    if one.proposals is None:
        return {"corloc": mine}
    largest = corloc(true, largest_proposal_detections(one.proposals, tags), tags, count).as_dict()
    whole = corloc(true, whole_image_detections(one.truth.sizes, tags), tags, count).as_dict()
    return {
        "corloc": mine,
        "corloc_largest": _with_notes(largest, ["the box: the image's largest proposal"]),
        "corloc_whole": _with_notes(whole, ["the box: the whole image"]),
        "corloc_random": random_proposal_corloc(true, one.proposals, tags, count).as_dict(),
    }


def _coco(one: Measured) -> Figures:
    return {"coco": coco_ap(one.truth.instances, one.found, one.truth.num_classes, keep=one.keep).as_dict()}


def _mask(one: Measured) -> Figures:
    arguments = (one.truth.instances, one.found, one.truth.num_classes)
    voc = voc_ap(*arguments, ious=MASK_IOUS, geometry="masks", keep=one.keep)
    return {"mask": voc.as_dict(), "mask_coco": coco_ap(*arguments, geometry="masks", keep=one.keep).as_dict()}


_MEASURES: dict[str, Callable[[Measured], Figures]] = {
    "voc": _voc("all-point", "voc"),
    "voc11": _voc("11-point", "voc11"),
    "corloc": _corloc,
    "coco": _coco,
    "mask": _mask,
}


def figures_text(figures: Mapping[str, Mapping[str, Any]], as_json: bool = False) -> str:
    """The figures for a terminal: the means, a line per class, and the protocol; or all of it as JSON."""
    if as_json:
        return json.dumps(figures, indent=1)
    lines: list[str] = []
    for name, one in figures.items():
        lines += [f"{name}: {', '.join(f'{label} {number(value)}' for label, value in _means(one).items())}"]
        lines += [f"  {text}" for text in _class_lines(one)]
        lines += [f"  protocol: {one['protocol']}"]
    return "\n".join(lines)


def _means(one: Mapping[str, Any]) -> dict[str, float | None]:
    if "ap" in one:
        return {key: one[key] for key in ("ap", "ap50", "ap75", "ar100")}
    mean = one["mean"]
    return (
        {f"AP{round(100 * float(iou))}": v for iou, v in mean.items()} if isinstance(mean, Mapping) else {"mean": mean}
    )


def _class_lines(one: Mapping[str, Any]) -> list[str]:
    per_class = one["per_class"]
    values = per_class.get("0.5", next(iter(per_class.values()))) if isinstance(per_class, Mapping) else per_class
    return [f"{name}: {number(value)}" for name, value in zip(one["classes"], values, strict=True)]
