"""The losses of one photo: WSDDN's, and each refinement branch's on the seeds that its rule chooses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from weaksam.models.box_deltas import box_loss
from weaksam.models.oicr import Seeds, refine_loss, separate_seeds, top_share_seeds
from weaksam.models.pcl import pcl_loss, pcl_seeds
from weaksam.models.true_targets import true_targets
from weaksam.models.wsddn import wsddn_loss
from weaksam.models.wsod_head import HeadOutput
from weaksam.models.wsod_targets import Targets, assign_rois, mist_seeds, oicr_seeds, oicr_top_seeds
from weaksam.stages.wsod.lessons import Lesson
from weaksam.stages.wsod.settings import WsodSettings


def branch_seeds(scores: Tensor, lesson: Lesson, settings: WsodSettings) -> Seeds:
    """Seeds from class scores ``(R, C)``: WSDDN's for the first branch, the branch before's for a later one."""
    if settings.seeds == "oicr":
        return oicr_seeds(scores, lesson.present, lesson.overlaps, share=settings.score_share)
    if settings.seeds == "oicr_top":
        return oicr_top_seeds(scores, lesson.present)
    if settings.seeds == "pcl":
        return pcl_seeds(scores, lesson.present, lesson.overlaps.iou, centres=settings.pcl_centres)
    if settings.seeds == "mist":
        mist = {"share": settings.mist_share, "max_iou": settings.mist_iou}
        return mist_seeds(scores, lesson.present, lesson.overlaps, **mist, compare=settings.mist_compare)
    rule = separate_seeds if settings.several else top_share_seeds
    nms_iou = settings.nms_iou if settings.several else 0.5
    return rule(scores, lesson.tags, lesson.boxes, share=settings.score_share, nms_iou=nms_iou)


def branch_targets(scores: Tensor, number: int, lesson: Lesson, settings: WsodSettings) -> Targets:
    """What branch ``number`` (0-based) learns of each RoI, from the class scores ``(R, C)`` before it.

    In the ceiling all branches learn the true boxes instead.
    """
    if lesson.truth is not None:
        true = lesson.truth
        return true_targets(lesson.boxes, true.boxes, true.labels, foreground_iou=settings.foreground_iou)
    by_clues = number == 0 and settings.seeds == "clues"
    seeds = lesson.clue_seeds if by_clues else branch_seeds(scores, lesson, settings)
    return assign_rois(lesson.overlaps, seeds, foreground_iou=settings.foreground_iou)


def photo_losses(output: HeadOutput, lesson: Lesson, settings: WsodSettings) -> dict[str, Tensor]:
    """WSDDN's loss and one refinement loss per branch (OICR, Tang et al., CVPR 2017, as WeakSAM uses it).

    Branch 1 is seeded by the class maps (ours: plain WSDDN scores settle on the most telling part) or by WSDDN's
    scores; each later one by the class probabilities of the branch before it. With box offsets each branch learns the
    box of the seed, too, as in MIST. PCL's branches learn clusters instead of single RoIs.
    """
    first_weight = settings.first_branch_weight or (3.0 if settings.seeds == "mist" else 1.0)
    learn = pcl_loss if settings.seeds == "pcl" and lesson.truth is None else refine_loss
    losses = {"wsddn": image_loss(output, lesson, settings)}
    source = output.class_scores
    wanted = lesson.boxes if lesson.truth is None or len(lesson.truth) == 0 else lesson.truth.boxes
    for number, logits in enumerate(output.refine):
        targets = branch_targets(source.detach(), number, lesson, settings)
        weight = first_weight if number == 0 else 1.0
        losses[f"refine{number + 1}"] = weight * learn(logits, targets)
        if output.deltas:
            losses[f"box{number + 1}"] = weight * box_loss(output.deltas[number], targets, lesson.boxes, wanted)
        source = logits.softmax(dim=1)[:, 1:]
    return losses


def image_loss(output: HeadOutput, lesson: Lesson, settings: WsodSettings) -> Tensor:
    """WSDDN's loss of the tags: summed over classes, or with a background column (tag 0) the mean, as in MIST."""
    if not settings.background_column:
        return wsddn_loss(output.scores, lesson.tags)
    tags = torch.cat([lesson.tags.new_zeros(1), lesson.tags])
    return wsddn_loss(output.scores, tags, eps=1e-8, reduction="mean")


def mean_losses(photos: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every loss over photos; none of no photo."""
    found: dict[str, list[Tensor]] = {}
    for losses in photos:
        for name, value in losses.items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values).mean() for name, values in found.items()}
