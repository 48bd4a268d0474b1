"""Measure detection files against a truth file, without a run: the figures of ``weaksam eval``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from weaksam.config import UserError, listed
from weaksam.data.detection_files import read_detections
from weaksam.data.findings import Findings
from weaksam.evaluation.coco import coco_ap
from weaksam.evaluation.corloc import corloc_and_baselines
from weaksam.evaluation.file_inputs import proposal_boxes, tags_of_images, truth_dataset
from weaksam.evaluation.mask_quality import mask_quality
from weaksam.evaluation.panoptic import panoptic_quality
from weaksam.evaluation.protocol import AP_IOUS, PAINTED_MIN_SCORE, DetectionFilter, keep_detections
from weaksam.evaluation.semantic import semantic_iou
from weaksam.evaluation.truth import Truth
from weaksam.evaluation.voc import MASK_IOUS, Interpolation, voc_ap
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

MASK_METRICS = ("mask", "boundary", "mask_iou", "miou", "pq")
"""Mask AP and boundary AP (VOC's and COCO's), mean IoU of masks, mIoU of the painted classes, panoptic quality."""
METRICS = ("voc", "voc11", "corloc", "coco", *MASK_METRICS)
"""VOC AP (all-point), VOC AP (11-point), CorLoc, COCO box AP, and those that compare masks."""
FileFigures = dict[str, dict[str, Any]]
"""Figures by name; see `evaluate_files` for what each holds."""
BASELINE_BOXES = {"corloc_largest": "the image's largest proposal", "corloc_whole": "the whole image"}
"""Which box a baseline of CorLoc takes, for its protocol."""


@dataclass(frozen=True)
class EvaluationInputs:
    """What is measured: detections that passed ``keep``, the truth, and the proposals for CorLoc's baselines."""

    truth: Truth
    detections: Mapping[str, Instances]
    keep: DetectionFilter
    pixel_inclusive: bool
    proposals: Mapping[str, Tensor] | None


def evaluate_files(
    truth: Path | str,
    detections: Path | str,
    metrics: Sequence[str] = ("voc", "corloc", "coco"),
    *,
    images: Path | str | None = None,
    image_list: Path | str | None = None,
    classes: Sequence[str] | None = None,
    tags: Path | str | None = None,
    proposals: Path | str | None = None,
    keep: DetectionFilter | None = None,
    pixel_inclusive: bool = False,
) -> FileFigures:
    """Measure a detection file against a truth file; returns figures by name, ready to be written as JSON.

    ``truth``: COCO JSON, a folder of VOC XML or of YOLO labels. ``detections``: COCO results, VOC result files or a
    sealed store, see `read_detections`. ``metrics``: some of `METRICS`. Only images with a photo in the folder
    ``images`` and an entry in ``image_list`` count, all where neither is given. ``classes`` orders the classes of VOC
    and YOLO as category ids count them. CorLoc's tags are those of the file ``tags``, else the classes of an image's
    true objects, difficult ones aside; with ``proposals`` (a store, COCO results or a table) its naive baselines are
    measured too. ``keep`` thins the detections first. ``pixel_inclusive``: x2, y2 of two COCO files are the last pixel
    inside (VOC AP only); all else is converted when it is read.

    Every figure holds ``classes`` (names by label) and ``protocol`` (how it was measured, in words). Shares are floats
    in [0, 1], None where undefined: the class has no true object (AP) or no tagged image (CorLoc).

    * ``voc``, ``voc11``, ``mask``, ``boundary``: ``mean`` by IoU as text (``figures["voc"]["mean"]["0.5"]`` is AP50) at
      0.5, 0.55 to 0.95 (of masks 0.25 too), ``average``, their mean from 0.5 on (AP .5:.95), ``per_class`` by IoU as a
      list by label, ``num_truths`` and ``num_detections`` by label;
    * ``coco``, ``mask_coco`` (measured with ``mask``), ``boundary_coco`` (with ``boundary``): ``ap``, ``ap50``,
      ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large``, ``ar1``, ``ar10``, ``ar100``, ``ar_small``, ``ar_medium``,
      ``ar_large``; ``per_class``, AP by label; ``by_iou``, AP by IoU as text;
    * ``mask_iou``: see `MaskQualityResult.as_dict`; ``miou``: `SemanticResult.as_dict`; ``pq``:
      `PanopticResult.as_dict`. The last two paint detections of at least ``keep.min_score``, 0.5 without it;
    * ``corloc`` and, with ``proposals``, ``corloc_largest``, ``corloc_whole``, ``corloc_random``: ``mean``,
      ``per_class`` by label, ``num_images`` tagged with each label.

    No detections give 0. Where one side has boxes alone, metrics that compare masks are left out, as the protocol of
    the others says. Raises `UserError` for unknown metrics, unreadable files, files that do not fit together, and where
    no metric is left.
    """
    truth, detections = Path(truth), Path(detections)
    _check_request(metrics, truth, detections, pixel_inclusive)
    all_images, counted, notes = truth_dataset(truth, _path(images), _path(image_list), classes)
    findings = Findings()
    read = read_detections(detections, all_images, findings)
    dataset = dataclasses.replace(all_images, samples=tuple(all_images.by_id[image_id] for image_id in counted))
    keep = keep or DetectionFilter()
    inputs = EvaluationInputs(
        truth=_truth_of(dataset, _path(tags), findings),
        detections={image_id: keep_detections(read[image_id], keep) for image_id in dataset.image_ids},
        keep=keep,
        pixel_inclusive=pixel_inclusive,
        proposals=None if proposals is None else proposal_boxes(Path(proposals), dataset, findings),
    )
    return _figures(metrics, inputs, dataset.classes, (*notes, *findings.notes), str(truth), str(detections))


def evaluate_instances(
    detections: Mapping[str, Instances],
    truth: Dataset,
    metrics: Sequence[str] = ("voc", "corloc", "coco"),
    *,
    keep: DetectionFilter | None = None,
) -> FileFigures:
    """`evaluate_files` of values: ``detections`` by image id of ``truth``, a split that was read with its true objects.

    A photo that ``detections`` do not name has none. Tags are those of the split. Raises `UserError` for unknown
    metrics, a split without true objects, and detections on photos that it does not have.
    """
    _check_metrics(metrics)
    known = Truth.of(truth)
    if known is None:
        raise UserError(f"wanted the true objects of {truth.name}, found none: give truth= to load_dataset")
    strange = [image_id for image_id in detections if image_id not in truth.by_id]
    if strange:
        raise UserError(
            f"wanted detections on the {len(truth)} photos of {truth.name}, found {len(strange)} other photos "
            f"({listed(strange, 3)}): name them as the split does, relative to its folder"
        )
    keep = keep or DetectionFilter()
    nothing = Instances.empty(scored=True)
    kept = {i: keep_detections(detections.get(i, nothing), keep) for i in known.instances}
    inputs = EvaluationInputs(known, kept, keep, pixel_inclusive=False, proposals=None)
    return _figures(metrics, inputs, truth.classes, (), f"the truth of {truth.name}", "the detections")


def _figures(
    metrics: Sequence[str],
    inputs: EvaluationInputs,
    classes: Sequence[str],
    notes: Sequence[str],
    truth: str,
    detections: str,
) -> FileFigures:
    """The figures of all ``metrics``; ``truth`` and ``detections`` say where these are from."""
    measured, left_out = _measurable(metrics, inputs, truth, detections)
    figures: FileFigures = {}
    for name in measured:
        figures |= _MEASURES[name](inputs)
    said = (*notes, *left_out)
    return {name: {"classes": list(classes), **_with_notes(values, said)} for name, values in figures.items()}


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _check_metrics(metrics: Sequence[str]) -> None:
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise UserError(f"wanted metrics among {', '.join(METRICS)}, found {unknown or 'none'}: name some of them")


def _check_request(metrics: Sequence[str], truth: Path, detections: Path, pixel_inclusive: bool) -> None:
    _check_metrics(metrics)
    if pixel_inclusive and not truth.suffix.lower() == detections.suffix.lower() == ".json":
        raise UserError(
            f"wanted two COCO files for --pixel-inclusive, found {truth} and {detections}, whose corners are converted "
            "when they are read: leave it out"
        )


def _measurable(
    metrics: Sequence[str], inputs: EvaluationInputs, truth: str, detections: str
) -> tuple[list[str], tuple[str, ...]]:
    """The metrics for which masks are there where they need them, and a sentence on the others; none left is an error.

    True masks may be missing where no image has an object.
    """
    sides = {truth: inputs.truth.instances, detections: inputs.detections}
    bare = [path for path, values in sides.items() if any(len(v) and v.masks is None for v in values.values())]
    lost = [name for name in metrics if name in MASK_METRICS and bare]
    if not lost:
        return list(metrics), ()
    sentence = f"wanted masks in {bare[0]} for {', '.join(lost)}, found boxes alone: give masks, or leave that out"
    if len(lost) == len(metrics):
        raise UserError(sentence)
    return [name for name in metrics if name not in lost], (f"not measured: {sentence}",)


def _truth_of(dataset: Dataset, tags: Path | None, findings: Findings) -> Truth:
    """The truth of ``dataset``, with the tags of a file where one is given."""
    truth = Truth.of(dataset)
    assert truth is not None, "a truth file gives every image its objects"
    return truth if tags is None else dataclasses.replace(truth, tags=tags_of_images(tags, dataset, findings))


def _with_notes(values: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """A figure with ``notes`` added to its protocol."""
    return {**values, "protocol": "; ".join([values["protocol"], *notes])}


# One function for each metric


def _voc_figures(inputs: EvaluationInputs, interpolation: Interpolation, name: str) -> FileFigures:
    result = voc_ap(
        inputs.truth.instances,
        inputs.detections,
        inputs.truth.num_classes,
        ious=AP_IOUS,
        interpolation=interpolation,
        pixel_inclusive=inputs.pixel_inclusive,
        keep=inputs.keep,
    )
    return {name: result.as_dict()}


def _corloc_figures(inputs: EvaluationInputs) -> FileFigures:
    results = corloc_and_baselines(inputs.truth, inputs.detections, inputs.proposals)
    notes = {name: [f"the box: {box}"] for name, box in BASELINE_BOXES.items()}
    if inputs.keep != DetectionFilter():
        notes["corloc"] = [str(inputs.keep)]
    return {name: _with_notes(result.as_dict(), notes.get(name, ())) for name, result in results.items()}


def _coco_figures(inputs: EvaluationInputs) -> FileFigures:
    result = coco_ap(inputs.truth.instances, inputs.detections, inputs.truth.num_classes, keep=inputs.keep)
    return {"coco": result.as_dict()}


def _mask_figures(inputs: EvaluationInputs, geometry: Literal["masks", "boundaries"], name: str) -> FileFigures:
    arguments = (inputs.truth.instances, inputs.detections, inputs.truth.num_classes)
    voc = voc_ap(*arguments, ious=sorted({*MASK_IOUS, *AP_IOUS}), geometry=geometry, keep=inputs.keep)
    coco = coco_ap(*arguments, geometry=geometry, keep=inputs.keep)
    return {name: voc.as_dict(), f"{name}_coco": coco.as_dict()}


def _mask_iou_figures(inputs: EvaluationInputs) -> FileFigures:
    result = mask_quality(inputs.truth.instances, inputs.detections, inputs.truth.num_classes)
    kept = () if inputs.keep == DetectionFilter() else (str(inputs.keep),)
    return {"mask_iou": _with_notes(result.as_dict(), kept)}


def _miou_figures(inputs: EvaluationInputs) -> FileFigures:
    arguments = (inputs.truth.instances, inputs.detections, inputs.truth.num_classes)
    painted = {"min_score": _painted_min_score(inputs.keep), "keep": inputs.keep}
    return {"miou": semantic_iou(*arguments, sizes=inputs.truth.sizes, **painted).as_dict()}


def _pq_figures(inputs: EvaluationInputs) -> FileFigures:
    arguments = (inputs.truth.instances, inputs.detections, inputs.truth.num_classes)
    return {"pq": panoptic_quality(*arguments, min_score=_painted_min_score(inputs.keep), keep=inputs.keep).as_dict()}


def _painted_min_score(keep: DetectionFilter) -> float:
    return PAINTED_MIN_SCORE if keep.min_score is None else keep.min_score


_MEASURES: dict[str, Callable[[EvaluationInputs], FileFigures]] = {
    "voc": lambda inputs: _voc_figures(inputs, "all-point", "voc"),
    "voc11": lambda inputs: _voc_figures(inputs, "11-point", "voc11"),
    "corloc": _corloc_figures,
    "coco": _coco_figures,
    "mask": lambda inputs: _mask_figures(inputs, "masks", "mask"),
    "boundary": lambda inputs: _mask_figures(inputs, "boundaries", "boundary"),
    "mask_iou": _mask_iou_figures,
    "miou": _miou_figures,
    "pq": _pq_figures,
}
