"""Compute the losses of one photo: WSDDN's, and each refinement branch's on the seeds that its rule chooses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from weaksam.models.wsod.box_regression import box_loss
from weaksam.models.wsod.head import HeadOutput
from weaksam.models.wsod.losses import pcl_loss, refine_loss
from weaksam.models.wsod.targets import Seeds, Targets, assign_rois
from weaksam.models.wsod.wsddn import wsddn_loss
from weaksam.stages.wsod.examples import TrainingExample
from weaksam.stages.wsod.seeds.class_maps import ClassMapSeedSettings
from weaksam.stages.wsod.seeds.given_labels import trusted_seeds
from weaksam.stages.wsod.seeds.mist import MistSettings, mist_seeds
from weaksam.stages.wsod.seeds.oicr import OicrSettings, OicrTopSettings, oicr_seeds, oicr_top_seeds
from weaksam.stages.wsod.seeds.pcl import PclSettings, pcl_seeds
from weaksam.stages.wsod.seeds.relocation import RelocationSettings
from weaksam.stages.wsod.seeds.scores import ScoreSeedSettings, separate_seeds
from weaksam.stages.wsod.seeds.true_boxes import true_targets
from weaksam.stages.wsod.settings import WsodSettings

_MIST_FIRST_WEIGHT = 3.0


def branch_sources(output: HeadOutput) -> list[Tensor]:
    """Class scores ``(R, C)`` that seed each branch: WSDDN's, then those of the branch before it; without gradient."""
    before = [logits.detach().softmax(dim=1)[:, 1:] for logits in output.refine[:-1]]
    return [output.class_scores.detach(), *before]


def seeds_of_scores(sources: Sequence[Tensor], example: TrainingExample, settings: WsodSettings) -> list[Seeds]:
    """The seeds of each branch whose ``sources`` of class scores ``(R, C)`` are given, by the rule that is set."""
    rule, present, overlaps = settings.seeds, example.present, example.overlaps
    match rule:
        case MistSettings():
            return mist_seeds(sources, present, overlaps, share=rule.share, max_iou=rule.max_iou, compare=rule.compare)
        case OicrSettings():
            return [oicr_seeds(scores, present, overlaps.iou, share=rule.share) for scores in sources]
        case OicrTopSettings():
            return [oicr_top_seeds(scores, present) for scores in sources]
        case PclSettings():
            return [pcl_seeds(scores, present, overlaps.iou, centres=rule.centres) for scores in sources]
        case ScoreSeedSettings(score_nms="all_classes"):
            return [oicr_seeds(scores, present, overlaps.iou, share=rule.score_share) for scores in sources]
        case _:
            share, nms_iou = rule.score_share, settings.nms_iou
            return [
                separate_seeds(scores, example.tags, example.boxes, share=share, nms_iou=nms_iou) for scores in sources
            ]


def branch_targets(output: HeadOutput, example: TrainingExample, settings: WsodSettings) -> list[Targets]:
    """What each branch learns of each RoI.

    Branch 1 is seeded by the class maps (ours: plain WSDDN scores settle on the most telling part) or by WSDDN's
    scores; each later one by the class probabilities of the branch before it. What was labelled on the photo stands
    above them all. In the ceiling all learn the true boxes.
    """
    foreground_iou = settings.foreground_iou
    if example.truth is not None:
        truth = example.truth
        targets = true_targets(example.boxes, truth.boxes, truth.labels, foreground_iou=foreground_iou)
        return [targets] * len(output.refine)
    sources = branch_sources(output)
    clued = isinstance(settings.seeds, RelocationSettings | ClassMapSeedSettings)
    scored = sources[1:] if clued else sources
    seeds = [*([example.clue_seeds] if clued else []), *seeds_of_scores(scored, example, settings)]
    if not example.labels.says_nothing:
        first = len(seeds) - len(scored)  # the clue seeds know of the labels already
        pairs = zip(seeds[first:], scored, strict=True)
        seeds[first:] = [trusted_seeds(of_branch, scores, example.boxes, example.labels) for of_branch, scores in pairs]
    iou = example.overlaps.iou
    return [assign_rois(iou, of_branch, foreground_iou=foreground_iou) for of_branch in seeds]


def photo_losses(output: HeadOutput, example: TrainingExample, settings: WsodSettings) -> dict[str, Tensor]:
    """WSDDN's loss and one refinement loss per branch (OICR, Tang et al., CVPR 2017; ``docs/method.md, OICR``).

    With box offsets each branch learns the box of the seed, too, as in MIST. PCL's branches learn clusters instead of
    single RoIs. Each loss is a scalar tensor, by name: ``wsddn``, ``refine1``, .. and, with box offsets, ``box1``, ..;
    everything is computed in float32, whatever the network computed in.
    """
    rule, truth = settings.seeds, example.truth
    first_weight = settings.first_branch_weight or (_MIST_FIRST_WEIGHT if isinstance(rule, MistSettings) else 1.0)
    branch_loss = pcl_loss if isinstance(rule, PclSettings) and truth is None else refine_loss
    losses = {"wsddn": image_loss(output, example, settings)}
    target_boxes = example.boxes if truth is None or len(truth) == 0 else truth.boxes
    for number, targets in enumerate(branch_targets(output, example, settings)):
        weight = first_weight if number == 0 else 1.0
        losses[f"refine{number + 1}"] = weight * branch_loss(output.refine[number], targets)
        if output.deltas:
            of_boxes = box_loss(output.deltas[number], targets, example.boxes, target_boxes)
            losses[f"box{number + 1}"] = weight * of_boxes
    return losses


def image_loss(output: HeadOutput, example: TrainingExample, settings: WsodSettings) -> Tensor:
    """WSDDN's loss of the tags: summed over classes, or with a background column (tag 0) the mean, as in MIST."""
    if not settings.background_column:
        return wsddn_loss(output.scores, example.tags)
    tags = torch.cat([example.tags.new_zeros(1), example.tags])
    return wsddn_loss(output.scores, tags, eps=1e-8, reduction="mean")


def mean_losses(photos: Iterable[Mapping[str, Tensor]], num_photos: int) -> dict[str, Tensor]:
    """The sum of every scalar loss over ``photos`` by ``num_photos``, by name; no loss where there is no photo."""
    by_name: dict[str, list[Tensor]] = {}
    for losses in photos:
        for name, value in losses.items():
            by_name.setdefault(name, []).append(value)
    return {name: torch.stack(values).sum() / num_photos for name, values in by_name.items()}
