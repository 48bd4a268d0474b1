"""The stages in order, as data: what each reads and writes, how it is made and how it is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from weaksam.data.detection_stores import instances_of
from weaksam.engine.detectors.result import DetectorResult
from weaksam.evaluation.protocol import DetectionFilter
from weaksam.evaluation.stage_summaries import (
    StageSummary,
    clue_summary,
    proposal_summary,
    pseudo_gt_summary,
    retrain_summary,
    wsis_summary,
    wsod_summary,
)
from weaksam.pipeline.state import Run
from weaksam.stages import clues, proposals, pseudo_gt, retrain, wsis, wsod
from weaksam.store.store import Store
from weaksam.structures.clue_points import CluePoints
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class Stage:
    """One step: its name, the stages whose results it reads, the plain files it writes below OUT, and how it is made.

    ``make`` computes what is missing and returns the stage's result; ``report`` says what that is and how good.
    ``shared``: its work lies in stores, so several processes can do it together.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    make: Callable[[Run], Any]
    report: Callable[[Run], StageSummary]
    shared: bool = False


def make_clues(run: Run) -> Any:
    """The clues of the training photos; the context's backbone becomes the one that the tags may have trained."""
    found = clues.run(run.context, run.settings.clues, run.context.train, "train")
    run.context = replace(run.context, backbone=clues.adapted_backbone(run.context, run.settings.clues))
    return found


def _make_proposals(run: Run) -> dict[str, Any]:
    """Proposals of both splits, taken from given stores or prompted.

    Test photos (and all, where no tags are given) are prompted by the grid alone.
    """
    if run.settings.proposals.given.folders:
        return {
            split: proposals.run_given(run.context, run.settings.proposals, dataset, split)
            for split, dataset in run.splits.items()
        }
    found = run.results.get("clues")
    clues_of, fingerprint = (no_points, "") if found is None else (clues.clue_points(found), found.fingerprint)
    arguments = (run.context, run.settings.proposals, run.segmenter)
    made = {"train": proposals.run(*arguments, clues_of, run.context.train, "train", clue_fingerprint=fingerprint)}
    if run.context.test is not None:
        made["test"] = proposals.run(*arguments, no_points, run.context.test, "test")
    return made


def _make_wsod(run: Run) -> DetectorResult:
    found = run.results["clues"]
    return wsod.run(run.context, run.settings.wsod, run.results["proposals"], found, clues.class_maps(found))


def _make_wsod_ceiling(run: Run) -> DetectorResult:
    found, truths = run.results["clues"], run.true_train.truths
    arguments = (run.context, run.settings.wsod, run.results["proposals"], found, clues.class_maps(found))
    return wsod.run(*arguments, truths=truths, name="wsod_ceiling")


def _make_pseudo_gt(run: Run) -> dict[str, Instances]:
    store = pseudo_gt.run(run.context, run.settings.pseudo_gt, run.results["wsod"].stores["train"])
    return instances_of(store)


def _make_retrain(run: Run) -> DetectorResult:
    return retrain.run(run.context, run.settings.retrain, run.results["pseudo_gt"])


def _make_wsis(run: Run) -> wsis.WsisResult:
    weights = run.results["retrain"].weights
    return wsis.run(run.context, run.settings.wsis, run.mask_segmenter, run.results["pseudo_gt"], weights)


def _make_retrain_ceiling(run: Run) -> DetectorResult:
    return retrain.run(run.context, run.settings.retrain, run.true_train.truths, name="retrain_ceiling")


def _make_wsis_ceiling(run: Run) -> wsis.WsisResult:
    weights, truths = run.results["retrain_ceiling"].weights, run.true_train.truths
    return wsis.run(run.context, run.settings.wsis, run.mask_segmenter, truths, weights, name="wsis_ceiling")


def no_points(image_id: str) -> CluePoints:
    """The clue points of a photo whose tags nobody knows: none."""
    return CluePoints.none()


def train_boxes(run: Run) -> Mapping[str, Tensor]:
    """The proposals' boxes of the training photos, by image id."""
    return run.results["proposals"]["train"].column("boxes")


def peaks_and_maps(run: Run) -> tuple[Any, Any]:
    """The peaks and the class maps of the training photos, by image id."""
    return clues.clue_peaks(run.results["clues"]), clues.kind_maps(run.results["clues"])


def detection_stores(result: Any) -> Mapping[str, Store]:
    """The detection stores of a stage, by split."""
    return result.stores


def _detections(result: Any) -> dict[str, dict[str, Instances]]:
    return {split: instances_of(store) for split, store in detection_stores(result).items()}


def _report_pseudo_gt(run: Run) -> StageSummary:
    found = instances_of(run.results["wsod"].stores["train"])
    tags = {sample.image_id: sample.tags for sample in run.context.train}
    top1 = {image_id: pseudo_gt.top1_pseudo_gt(one, tags[image_id]) for image_id, one in found.items()}
    return pseudo_gt_summary(run.truths, run.results["pseudo_gt"], top1)


def _made_by(settings: Any) -> str:
    """How a detector chose its boxes, for the protocol; its settings name suppression and boxes per photo alike."""
    return str(DetectionFilter(settings.min_score, settings.nms_iou, settings.max_boxes)).replace("NMS", "own NMS")


def _report_wsod(name: str) -> Callable[[Run], StageSummary]:
    def report(run: Run) -> StageSummary:
        found, made_by = _detections(run.results[name]), _made_by(run.settings.wsod)
        return wsod_summary(run.truths, found, train_boxes(run), run.settings.evaluation, made_by)

    return report


def _report_retrain(name: str) -> Callable[[Run], StageSummary]:
    def report(run: Run) -> StageSummary:
        found, made_by = _detections(run.results[name]), _made_by(run.settings.retrain)
        return retrain_summary(run.truths, found, run.settings.evaluation, made_by)

    return report


def _report_wsis(name: str) -> Callable[[Run], StageSummary]:
    def report(run: Run) -> StageSummary:
        result = run.results[name]
        masks, found = instances_of(result.pseudo_masks), _detections(result)
        return wsis_summary(run.truths, masks, found, run.settings.evaluation, _made_by(run.settings.wsis))

    return report


STAGES = (
    Stage(
        "clues", ("data",), (), make_clues,
        lambda run: clue_summary(run.truths, *peaks_and_maps(run), run.context.train.image_ids),
    ),
    Stage(
        "proposals", ("data", "clues"), (), _make_proposals,
        lambda run: proposal_summary(run.truths, train_boxes(run), run.settings.evaluation), shared=True,
    ),
    Stage(
        "wsod", ("data", "clues", "proposals"), ("wsod/detections_train.json", "wsod/detections_test.json"), _make_wsod,
        _report_wsod("wsod"),
    ),
    Stage("pseudo_gt", ("data", "wsod"), ("pseudo_gt/train.json",), _make_pseudo_gt, _report_pseudo_gt),
    Stage(
        "retrain", ("data", "pseudo_gt"), ("retrain/detections_train.json", "retrain/detections_test.json"),
        _make_retrain, _report_retrain("retrain"),
    ),
    Stage(
        "wsis", ("data", "pseudo_gt", "retrain"), ("wsis/pseudo_masks_train.json", "wsis/detections_test.json"),
        _make_wsis, _report_wsis("wsis"),
    ),
)  # fmt: skip
"""The pipeline: a stage reads what earlier ones made; ``*_test.json`` is written where there is a test split."""

CEILINGS = (
    Stage(
        "wsod_ceiling", ("data", "truth", "clues", "proposals"), (), _make_wsod_ceiling, _report_wsod("wsod_ceiling")
    ),
    Stage("retrain_ceiling", ("data", "truth"), (), _make_retrain_ceiling, _report_retrain("retrain_ceiling")),
    Stage("wsis_ceiling", ("data", "truth", "retrain_ceiling"), (), _make_wsis_ceiling, _report_wsis("wsis_ceiling")),
)
"""The same detectors trained on the true boxes and masks (``ceiling=true``): what perfect pseudo labels would give."""
