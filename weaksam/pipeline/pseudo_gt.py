"""Measure and export pseudo ground truth: that of a run, or of a file of any tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.given_boxes import read_given_boxes
from weaksam.data.label_export import ExportOptions, export_labels
from weaksam.evaluation.file_inputs import truth_dataset
from weaksam.evaluation.pseudo_gt_figures import PseudoGtFigures, pseudo_gt_figures
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.state import open_run, require_finished
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class BoxSource:
    """Pseudo boxes by image id, the photos they are of, and their true objects where these are known."""

    dataset: Dataset
    boxes: Mapping[str, Instances]
    truths: Mapping[str, Instances]
    image_ids: tuple[str, ...]
    notes: tuple[str, ...] = ()


def open_boxes(
    source: Path,
    truth: Path | None = None,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    masks: bool = False,
) -> BoxSource:
    """The pseudo ground truth of the run in the folder ``source``, or of a file or folder in a format of annotations.

    ``truth``: true boxes; a run's own where it is None. ``images``, ``classes``: as for `truth_dataset`; a run has its
    own. ``masks``: of a run its pseudo masks. Raises `UserError`, also where the run's stage is not finished.
    """
    if (source / "run.json").is_file() or (source / "pseudo_gt").is_dir():
        return _of_run(source, truth, masks)
    dataset, counted, notes = truth_dataset(source if truth is None else truth, images, classes=classes)
    if truth is None:
        return BoxSource(dataset, dataset.truths, {}, counted, notes)
    truths = {image_id: dataset.truths[image_id] for image_id in counted}
    findings = Findings()
    boxes = read_given_boxes(source, dataset, findings)
    return BoxSource(dataset, boxes, truths, counted, (*notes, *findings.notes))


def _of_run(out: Path, truth: Path | None, masks: bool) -> BoxSource:
    """The pseudo ground truth of a run's training photos, boxes or masks, from the file that its stage wrote."""
    run = open_run(recorded_settings(out))
    require_finished(run, ["wsis" if masks else "pseudo_gt"])
    dataset = run.context.train
    boxes = read_given_boxes(out / ("wsis/pseudo_masks_train.json" if masks else "pseudo_gt/train.json"), dataset)
    findings = Findings()
    truths = run.true_train.truths if truth is None else read_given_boxes(truth, dataset, findings)
    return BoxSource(dataset, boxes, truths, dataset.image_ids, findings.notes)


def measure_pseudo_gt(
    source: Path,
    truth: Path | None = None,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    iou: float = 0.5,
    masks: bool = False,
) -> PseudoGtFigures:
    """Figures of pseudo ground truth, see `open_boxes`; without any true boxes the counts alone.

    Masks are measured where both sides have them; ``masks`` asks for them: `UserError` where one side has none.
    """
    opened = open_boxes(source, truth, images, classes, masks)
    arguments = (opened.boxes, opened.image_ids, opened.dataset.classes, opened.truths)
    sizes = {sample.image_id: sample.size for sample in opened.dataset}
    figures = pseudo_gt_figures(*arguments, iou=iou, sizes=sizes, notes=opened.notes)
    if masks and figures.masks is None:
        bare = any(len(boxes) and boxes.masks is None for boxes in opened.boxes.values())
        raise UserError(
            f"wanted masks to compare with true ones, found none {f'in {source}' if bare else 'in the truth'}: give "
            f"{'pseudo masks' if bare else '--truth with masks'}, or leave out --masks"
        )
    return figures


def export_pseudo_gt(source: Path, out: Path, images: Path | None = None) -> str:
    """Write pseudo ground truth as COCO JSON (``out`` ends in .json) or as VOC's folders; says what it wrote.

    As `weaksam.pipeline.labels.export` with ``coco`` and ``voc``, but links to photos. Raises `UserError` as that does.
    """
    as_json = out.suffix.lower() == ".json"
    if not as_json and (out.suffix or out.is_file()):
        raise UserError(f"wanted a .json file (COCO) or a folder (VOC XML) to write, found {out}: name one of these")
    opened = open_boxes(source, None, images)
    form = "coco" if as_json else "voc"
    return export_labels(out, form, opened.dataset, opened.boxes, ExportOptions(photos="none"))
