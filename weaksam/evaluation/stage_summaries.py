"""Summarize each stage of a run: what it made and how good that is, in a few words, with the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from weaksam.evaluation.clue_figures import measure_clues
from weaksam.evaluation.settings import EvaluationSettings
from weaksam.evaluation.stage_figures import (
    Detections,
    box_figures,
    choice_figures,
    corloc_figures,
    mask_figures,
    peak_figures,
    pseudo_figures,
    pseudo_mask_figures,
    recall_figures,
)
from weaksam.evaluation.text import NOT_MEASURED, brief
from weaksam.evaluation.truth import Truth
from weaksam.structures.clue_points import KindMapsOf, PeaksOf

SplitTruths = Mapping[str, Truth | None]
"""The truth of ``train`` and ``test``; None where a split has none, and then nothing of it is measured."""


class StageSummary(NamedTuple):
    """What a stage made and how good that is, in a few words each; the figures by name, empty without a truth."""

    made: str
    quality: str
    figures: dict[str, Any]


def clue_summary(
    truths: SplitTruths, peaks_of: PeaksOf, maps_of: KindMapsOf, image_ids: tuple[str, ...]
) -> StageSummary:
    """Peak points of the training photos, and the masks their class maps make."""
    total = sum(len(peaks_of(image_id).labels) for image_id in image_ids)
    train = truths["train"]
    figures: dict[str, Any] = {}
    if train is not None:
        figures = {
            "train_peaks": peak_figures(train, peaks_of),
            "train_clues": measure_clues(train, peaks_of, maps_of).as_dict(),
        }
    quality = brief(figures, ("train_peaks/inside", "inside a true box:"))
    return StageSummary(f"{total} peaks on {len(image_ids)} photos", quality, figures)


def proposal_summary(truths: SplitTruths, boxes: Mapping[str, Tensor], settings: EvaluationSettings) -> StageSummary:
    """Proposals of the training photos, best first."""
    train = truths["train"]
    mean = sum(map(len, boxes.values())) / len(boxes) if boxes else 0.0
    output = f"{mean:.0f} boxes a photo on {len(boxes)} photos"
    if train is None:
        return StageSummary(output, NOT_MEASURED, {})
    figures = {"train_recall": recall_figures(train, boxes, settings)}
    all_boxes = figures["train_recall"]["rows"][-1]["recall"]
    quality = "recall " + brief(all_boxes, ("0.5", "@0.5"), ("0.75", "@0.75"), ("0.9", "@0.9"))
    return StageSummary(output, quality, figures)


def wsod_summary(
    truths: SplitTruths,
    detections: Mapping[str, Detections],
    proposals: Mapping[str, Tensor],
    settings: EvaluationSettings,
    made_by: str,
) -> StageSummary:
    """Detections of the weakly supervised detector on the photos of ``train`` and, where there is one, ``test``."""
    train, test = truths["train"], truths["test"]
    figures = corloc_figures(train, detections["train"], proposals) if train is not None else {}
    if test is not None and "test" in detections:
        figures |= box_figures(test, detections["test"], settings, made_by)
    quality = brief(figures, *_ap("test_boxes", "test"), ("train_corloc/mean", "train CorLoc"))
    return StageSummary(_counts(detections), quality, figures)


def pseudo_gt_summary(truths: SplitTruths, chosen: Detections, top1: Detections) -> StageSummary:
    """Pseudo ground truth of the training photos, with the top-1 choice beside it."""
    believed = [boxes.without_crowd() for boxes in chosen.values()]
    num_boxes, num_all = sum(map(len, believed)), sum(map(len, chosen.values()))
    output = f"{num_boxes} boxes on {sum(len(boxes) > 0 for boxes in believed)} photos"
    if num_all > num_boxes:
        output += f", {num_all - num_boxes} regions ignored"
    train = truths["train"]
    if train is None:
        return StageSummary(output, NOT_MEASURED, {})
    figures = {"train_chosen": pseudo_figures(train, chosen), "train_top1": pseudo_figures(train, top1)}
    quality = brief(figures, ("train_chosen/precision", "precision"), ("train_chosen/recall", "recall"))
    return StageSummary(output, quality, figures)


def retrain_summary(
    truths: SplitTruths, detections: Mapping[str, Detections], settings: EvaluationSettings, made_by: str
) -> StageSummary:
    """Detections of the retrained detector."""
    test = truths["test"]
    figures = (
        box_figures(test, detections["test"], settings, made_by) if test is not None and "test" in detections else {}
    )
    quality = brief(figures, *_ap("test_boxes", "test"))
    return StageSummary(_counts(detections), quality, figures)


def choice_summary(
    truths: SplitTruths,
    chosen: Mapping[str, Detections],
    candidates: Mapping[str, Mapping[str, Detections]],
    choice: Mapping[str, Any],
    settings: EvaluationSettings,
    made_by: Mapping[str, str],
) -> StageSummary:
    """The detections that were chosen among those of the weak detector, the retrained network and both merged.

    ``chosen``: by split and image id, moved by box voting where that is set; ``candidates``: by name, split and image
    id; ``choice`` says ``name``, ``reason`` and ``signals``; ``made_by`` says
    how each candidate, and ``chosen``, came by its boxes. The network's own figures are ``test_network_boxes``.
    """
    name, test = choice["name"], truths["test"]
    on_test = {candidate: of_split.get("test") for candidate, of_split in candidates.items()}
    figures: dict[str, Any] = {"choice": choice_figures(test, choice, on_test, settings)}
    measured = ((chosen.get("test"), "chosen", ""), (on_test["retrained"], "retrained", "network_"))
    for detections, candidate, of in measured:
        if test is not None and detections is not None:
            figures |= box_figures(test, detections, settings, made_by[candidate], of)
    quality = brief(figures, *_ap("test_boxes", "test"), ("test_network_boxes/mean/0.5", "network alone AP50"))
    return StageSummary(f"{_counts(chosen)} ({name})", quality, figures)


def wsis_summary(
    truths: SplitTruths,
    pseudo_masks: Detections,
    detections: Mapping[str, Detections],
    settings: EvaluationSettings,
    made_by: str,
) -> StageSummary:
    """Pseudo masks of the training photos and the detections of Mask R-CNN."""
    train, test = truths["train"], truths["test"]
    figures: dict[str, Any] = {} if train is None else {**pseudo_mask_figures(train, pseudo_masks)}
    if test is not None and "test" in detections:
        figures |= {
            **mask_figures(test, detections["test"], settings, made_by),
            **box_figures(test, detections["test"], settings, made_by),
        }
    pseudo = ("train_mask_iou/mask_iou", "pseudo-mask IoU")
    quality = brief(figures, *_ap("test_masks", "test mask"), ("test_pq/pq", "PQ"), ("test_miou/mean", "mIoU"), pseudo)
    if "test_masks" not in figures and "test_boxes" in figures:
        quality = brief(figures, *_ap("test_boxes", "no true masks; test box"), pseudo)
    return StageSummary(f"{sum(map(len, pseudo_masks.values()))} pseudo masks; {_counts(detections)}", quality, figures)


def _ap(name: str, what: str) -> tuple[tuple[str, str], ...]:
    """Where AP50, AP75 and AP .5:.95 of the figure ``name`` lie, and their labels; the first says of what they are."""
    return (f"{name}/mean/0.5", f"{what} AP50"), (f"{name}/mean/0.75", "AP75"), (f"{name}/average", "AP .5:.95")


def _counts(detections: Mapping[str, Detections]) -> str:
    """Numbers of detections by split, in words."""
    parts = [f"{sum(map(len, by_image.values()))} {split}" for split, by_image in detections.items()]
    return " and ".join(parts) + " detections" if parts else "a trained detector"
