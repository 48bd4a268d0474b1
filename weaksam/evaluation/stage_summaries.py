"""Say in a few words what each stage made and how good it is: one function per stage, fed with its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from weaksam.evaluation.clue_figures import measure_clues
from weaksam.evaluation.settings import EvaluationSettings
from weaksam.evaluation.stage_figures import (
    Detections,
    box_figures,
    brief,
    corloc_figures,
    mask_figures,
    peak_figures,
    pseudo_figures,
    recall_figures,
)
from weaksam.evaluation.truth import Truth
from weaksam.structures.clue_points import KindMapsOf, PeaksOf

Truths = Mapping[str, Truth | None]
"""The truth of ``train`` and ``test``; None where there is none, and then nothing is measured."""


class StageSummary(NamedTuple):
    """What a stage made, how good it is, and the figures behind that."""

    made: str
    quality: str
    figures: dict[str, Any]


def clue_summary(truths: Truths, peaks_of: PeaksOf, maps_of: KindMapsOf, image_ids: tuple[str, ...]) -> StageSummary:
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


def proposal_summary(truths: Truths, boxes: Mapping[str, Tensor], settings: EvaluationSettings) -> StageSummary:
    """Proposals of the training photos, best first."""
    train = truths["train"]
    made = f"{_mean(len(one) for one in boxes.values()):.0f} boxes a photo on {len(boxes)} photos"
    if train is None:
        return StageSummary(made, "not measured", {})
    figures = {"train_recall": recall_figures(train, boxes, settings)}
    every = {"all": figures["train_recall"]["rows"][-1]["recall"]}
    return StageSummary(
        made, "recall " + brief(every, ("all/0.5", "@0.5"), ("all/0.75", "@0.75"), ("all/0.9", "@0.9")), figures
    )


def wsod_summary(
    truths: Truths,
    found: Mapping[str, Detections],
    proposals: Mapping[str, Tensor],
    settings: EvaluationSettings,
    made_by: str,
) -> StageSummary:
    """Detections of the weakly supervised detector: ``found`` holds ``train`` and, where there is one, ``test``."""
    train, test = truths["train"], truths["test"]
    figures = corloc_figures(train, found["train"], proposals) if train is not None else {}
    if test is not None and "test" in found:
        figures |= box_figures(test, found["test"], settings, made_by)
    quality = brief(figures, ("test_boxes/mean/0.5", "test AP50"), ("train_corloc/mean", "train CorLoc"))
    return StageSummary(_counts(found), quality, figures)


def pseudo_gt_summary(truths: Truths, chosen: Detections, top1: Detections) -> StageSummary:
    """Pseudo ground truth of the training photos, with the top-1 choice beside it."""
    made = f"{sum(map(len, chosen.values()))} boxes on {sum(len(one) > 0 for one in chosen.values())} photos"
    train = truths["train"]
    if train is None:
        return StageSummary(made, "not measured", {})
    figures = {"train_chosen": pseudo_figures(train, chosen), "train_top1": pseudo_figures(train, top1)}
    quality = brief(figures, ("train_chosen/precision", "precision"), ("train_chosen/recall", "recall"))
    return StageSummary(made, quality, figures)


def retrain_summary(
    truths: Truths, found: Mapping[str, Detections], settings: EvaluationSettings, made_by: str
) -> StageSummary:
    """Detections of the retrained Faster R-CNN."""
    test = truths["test"]
    figures = box_figures(test, found["test"], settings, made_by) if test is not None and "test" in found else {}
    quality = brief(figures, ("test_boxes/mean/0.5", "test AP50"), ("test_coco_boxes/ap", "COCO AP"))
    return StageSummary(_counts(found), quality, figures)


def wsis_summary(
    truths: Truths,
    pseudo_masks: Detections,
    found: Mapping[str, Detections],
    settings: EvaluationSettings,
    made_by: str,
) -> StageSummary:
    """Pseudo masks of the training photos and the detections of Mask R-CNN."""
    train, test = truths["train"], truths["test"]
    figures: dict[str, Any] = {}
    if train is not None and train.has_masks:
        figures["train_pseudo_masks"] = pseudo_figures(train, pseudo_masks, "masks")
    if test is not None and "test" in found:
        figures |= {
            **mask_figures(test, found["test"], settings, made_by),
            **box_figures(test, found["test"], settings, made_by),
        }
    quality = brief(figures, ("test_masks/mean/0.5", "test mask AP50"), ("test_coco_masks/ap", "COCO mask AP"))
    if quality == "not measured":
        quality = brief(figures, ("test_boxes/mean/0.5", "no true masks; test box AP50"))
    return StageSummary(f"{sum(map(len, pseudo_masks.values()))} pseudo masks; {_counts(found)}", quality, figures)


def _counts(found: Mapping[str, Detections]) -> str:
    parts = [f"{sum(map(len, one.values()))} {split}" for split, one in found.items()]
    return " and ".join(parts) + " detections" if parts else "a trained detector"


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
