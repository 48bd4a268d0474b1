"""Measure what each stage of a run made, against the truth that only the evaluation reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from weaksam.data.detection_stores import instances_of
from weaksam.engine.detectors.result import DetectorResult
from weaksam.evaluation import stage_summaries as summaries
from weaksam.evaluation.protocol import DetectionFilter
from weaksam.pipeline.plan import Stage
from weaksam.pipeline.state import CEILING, Run
from weaksam.stages import clues, pseudo_gt
from weaksam.stages.retrain import RetrainResult
from weaksam.stages.wsis import WsisResult
from weaksam.store.store import Store
from weaksam.structures.instances import Instances


def summarise(run: Run, stage: Stage) -> summaries.StageSummary:
    """What ``stage`` made and how good it is; a ceiling is measured as the stage whose ceiling it is."""
    measure = {
        "clues": _clues,
        "proposals": _proposals,
        "wsod": _wsod,
        "pseudo_gt": _pseudo_gt,
        "retrain": _retrain,
        "wsis": _wsis,
    }[stage.name.removesuffix(CEILING)]
    return measure(run, run.results[stage.outputs[0]])


def train_boxes(run: Run) -> Mapping[str, Tensor]:
    """The proposals' boxes of the training photos, by image id."""
    return run.results["proposals"]["train"].column("boxes")


def peaks_and_maps(run: Run) -> tuple[Any, Any]:
    """The peaks and the class maps of the training photos, by image id."""
    store = run.results["clues"]
    return clues.clue_peaks(store), clues.kind_maps(store)


def detections_by_split(result: DetectorResult) -> dict[str, dict[str, Instances]]:
    """The detections of a detector by split and image id."""
    return {split: result.detections(split) for split in result.stores}


def _clues(run: Run, store: Store) -> summaries.StageSummary:
    summary = summaries.clue_summary(run.truths, *peaks_and_maps(run), run.context.train.image_ids)
    test_store = run.results["test_clues"]
    if test_store is None:
        return summary
    num_points = sum(map(len, test_store.column("point_labels").values()))
    return summary._replace(made=f"{summary.made}, {num_points} on {len(test_store.image_ids)} test photos")


def _proposals(run: Run, stores: Mapping[str, Store]) -> summaries.StageSummary:
    return summaries.proposal_summary(run.truths, train_boxes(run), run.settings.evaluation)


def _wsod(run: Run, result: DetectorResult) -> summaries.StageSummary:
    detections, made_by = detections_by_split(result), _made_by(run.settings.wsod)
    return summaries.wsod_summary(run.truths, detections, train_boxes(run), run.settings.evaluation, made_by)


def _pseudo_gt(run: Run, chosen: Mapping[str, Instances]) -> summaries.StageSummary:
    detections = instances_of(run.results["weak_detector"].stores["train"])
    tags = {sample.image_id: sample.tags for sample in run.context.train}
    top1 = {image_id: pseudo_gt.topk_pseudo_gt(of_photo, tags[image_id]) for image_id, of_photo in detections.items()}
    return summaries.pseudo_gt_summary(run.truths, chosen, top1)


def _retrain(run: Run, result: DetectorResult) -> summaries.StageSummary:
    settings, made_by = run.settings, _made_by(run.settings.retrain)
    if not isinstance(result, RetrainResult):
        return summaries.retrain_summary(run.truths, detections_by_split(result), settings.evaluation, made_by)
    candidates = {
        name: {split: instances_of(store) for split, store in stores.items()}
        for name, stores in result.candidates.items()
    }
    weak = _made_by(settings.wsod)
    merged = f"weighted boxes fusion at IoU {settings.retrain.fusion_iou:g} of {weak}, and {made_by}"
    all_made_by: dict[str, str] = {"weak": weak, "retrained": made_by, "merged": merged}
    choice, share = result.choice.as_dict(), settings.retrain.box_voting.share
    moved = f", moved by {share:g} to the vote of proposals" if share else ""
    all_made_by["chosen"] = f"{all_made_by[result.choice.name]}{moved}"
    chosen = detections_by_split(result)
    return summaries.choice_summary(run.truths, chosen, candidates, choice, settings.evaluation, all_made_by)


def _wsis(run: Run, result: WsisResult) -> summaries.StageSummary:
    masks, detections = instances_of(result.pseudo_masks), detections_by_split(result)
    return summaries.wsis_summary(run.truths, masks, detections, run.settings.evaluation, _made_by(run.settings.wsis))


def _made_by(settings: Any) -> str:
    """How a detector chose its boxes, for the protocol; its settings name suppression and boxes per photo alike."""
    nms_iou = getattr(settings, "nms_iou", None)  # a network of queries suppresses nothing
    text = str(DetectionFilter(settings.min_score, nms_iou, settings.max_boxes))
    return text.replace("no further NMS", "no NMS") if nms_iou is None else text.replace("NMS", "own NMS")
