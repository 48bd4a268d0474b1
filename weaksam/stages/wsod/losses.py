"""The losses of one photo: WSDDN's, and each refinement branch's on the seeds that its rule chooses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from weaksam.models.wsod.box_regression import box_loss
from weaksam.models.wsod.head import HeadOutput
from weaksam.models.wsod.targets import Seeds, Targets, refine_loss, separate_seeds, top_share_seeds
from weaksam.models.wsod.wsddn import wsddn_loss
from weaksam.stages.wsod.examples import Lesson
from weaksam.stages.wsod.seeds.oicr import assign_rois, mist_seeds_of_branches, oicr_seeds, oicr_top_seeds
from weaksam.stages.wsod.seeds.pcl import pcl_loss, pcl_seeds
from weaksam.stages.wsod.seeds.true_boxes import true_targets
from weaksam.stages.wsod.settings import WsodSettings


def branch_sources(output: HeadOutput) -> list[Tensor]:
    """Class scores ``(R, C)`` that seed each branch: WSDDN's, then those of the branch before it; without gradient."""
    before = [logits.detach().softmax(dim=1)[:, 1:] for logits in output.refine[:-1]]
    return [output.class_scores.detach(), *before]


def seeds_of_scores(sources: Sequence[Tensor], lesson: Lesson, settings: WsodSettings) -> list[Seeds]:
    """Each branch's seeds from the class scores ``(R, C)`` before it, by the rule that is set."""
    present, overlaps = lesson.present, lesson.overlaps
    if settings.seeds == "mist":
        mist = {"share": settings.mist_share, "max_iou": settings.mist_iou}
        return mist_seeds_of_branches(sources, present, overlaps, **mist, compare=settings.mist_compare)
    if settings.seeds == "oicr":
        return [oicr_seeds(scores, present, overlaps, share=settings.score_share) for scores in sources]
    if settings.seeds == "oicr_top":
        return [oicr_top_seeds(scores, present) for scores in sources]
    if settings.seeds == "pcl":
        return [pcl_seeds(scores, present, overlaps.iou, centres=settings.pcl_centres) for scores in sources]
    rule = separate_seeds if settings.several else top_share_seeds
    nms_iou = settings.nms_iou if settings.several else 0.5
    told = {"share": settings.score_share, "nms_iou": nms_iou}
    return [rule(scores, lesson.tags, lesson.boxes, **told) for scores in sources]


def branch_targets(output: HeadOutput, lesson: Lesson, settings: WsodSettings) -> list[Targets]:
    """What each branch learns of each RoI.

    Branch 1 is seeded by the class maps (ours: plain WSDDN scores settle on the most telling part) or by WSDDN's
    scores; each later one by the class probabilities of the branch before it. In the ceiling all learn the true boxes.
    """
    if lesson.truth is not None:
        true = true_targets(
            lesson.boxes, lesson.truth.boxes, lesson.truth.labels, foreground_iou=settings.foreground_iou
        )
        return [true] * len(output.refine)
    sources, by_clues = branch_sources(output), settings.seeds == "clues"
    seeds = seeds_of_scores(sources[1:] if by_clues else sources, lesson, settings)
    all_seeds = [lesson.clue_seeds, *seeds] if by_clues else seeds
    return [assign_rois(lesson.overlaps, one, foreground_iou=settings.foreground_iou) for one in all_seeds]


def photo_losses(output: HeadOutput, lesson: Lesson, settings: WsodSettings) -> dict[str, Tensor]:
    """WSDDN's loss and one refinement loss per branch (OICR, Tang et al., CVPR 2017, as WeakSAM uses it).

    With box offsets each branch learns the box of the seed, too, as in MIST. PCL's branches learn clusters instead of
    single RoIs. Everything is computed in float32, whatever the network computed in.
    """
    first_weight = settings.first_branch_weight or (3.0 if settings.seeds == "mist" else 1.0)
    learn = pcl_loss if settings.seeds == "pcl" and lesson.truth is None else refine_loss
    losses = {"wsddn": image_loss(output, lesson, settings)}
    wanted = lesson.boxes if lesson.truth is None or len(lesson.truth) == 0 else lesson.truth.boxes
    for number, targets in enumerate(branch_targets(output, lesson, settings)):
        weight = first_weight if number == 0 else 1.0
        losses[f"refine{number + 1}"] = weight * learn(output.refine[number], targets)
        if output.deltas:
            losses[f"box{number + 1}"] = weight * box_loss(output.deltas[number], targets, lesson.boxes, wanted)
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
