"""Measure a COCO results file against a COCO truth file, without a run and without the photos."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.data import coco
from weaksam.data.dataset import Dataset, Sample
from weaksam.evaluation.coco import coco_ap
from weaksam.evaluation.corloc import corloc
from weaksam.evaluation.voc import MASK_IOUS, voc_ap
from weaksam.report.figures import Detections, Truth
from weaksam.report.tables import number

METRICS = ("voc", "voc11", "corloc", "coco", "mask")
"""VOC AP (all-point), VOC AP (11-point), CorLoc, COCO box AP, and mask AP (VOC at four IoUs, and COCO)."""


def evaluate_files(truth: Path, detections: Path, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The figures named in ``metrics`` by name, each with its protocol.

    Tags for CorLoc are the classes of an image's true objects. Raises `UserError` for an unknown metric, files of
    another form, results of other images, or masks asked of files without them.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise UserError(f"wanted metrics among {', '.join(METRICS)}, found {unknown or 'none'}: name some of them")
    dataset = dataset_of(truth)
    found = coco.read_results(detections, dataset)
    true = Truth.of(dataset)
    assert true is not None
    figures: dict[str, dict[str, Any]] = {}
    for name in metrics:
        figures |= _MEASURES[name](true, found)
    return {name: {"classes": list(dataset.classes), **one} for name, one in figures.items()}


def dataset_of(truth: Path) -> Dataset:
    """The images and objects of a COCO instances file as a dataset; its photos need not be there."""
    read = coco.read_instances(truth)
    samples = []
    for place, (name, image) in enumerate(sorted(read.images.items()), start=1):
        tags = tuple(sorted(set(image.instances.labels.tolist())))
        image_number = place if image.number is None else image.number
        samples.append(Sample(name, Path(name), image.size or (0, 0), tags, image.instances, image_number))
    if not samples:
        raise UserError(f"wanted images in {truth}, found none: name the file that lists them")
    return Dataset(truth.stem, read.classes, read.category_ids, tuple(samples))


def _voc(interpolation: Any, name: str) -> Callable[[Truth, Detections], dict[str, dict[str, Any]]]:
    def measure(truth: Truth, found: Detections) -> dict[str, dict[str, Any]]:
        result = voc_ap(truth.instances, found, truth.num_classes, ious=(0.5, 0.75), interpolation=interpolation)
        return {name: result.as_dict()}

    return measure


def _corloc(truth: Truth, found: Detections) -> dict[str, dict[str, Any]]:
    return {"corloc": corloc(truth.instances, found, truth.tags, truth.num_classes).as_dict()}


def _coco(truth: Truth, found: Detections) -> dict[str, dict[str, Any]]:
    return {"coco": coco_ap(truth.instances, found, truth.num_classes).as_dict()}


def _mask(truth: Truth, found: Detections) -> dict[str, dict[str, Any]]:
    arguments = (truth.instances, found, truth.num_classes)
    voc = voc_ap(*arguments, ious=MASK_IOUS, geometry="masks")
    return {"mask": voc.as_dict(), "mask_coco": coco_ap(*arguments, geometry="masks").as_dict()}


_MEASURES: dict[str, Callable[[Truth, Detections], dict[str, dict[str, Any]]]] = {
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
