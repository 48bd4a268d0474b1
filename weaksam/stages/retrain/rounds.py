"""Retrain, choose whose detections are handed on, and let these teach the network once more while that pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from weaksam.data.detection_stores import instances_of
from weaksam.data.formats.coco import write_results
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.result import DetectorResult
from weaksam.sam.protocol import Segmenter
from weaksam.stages.retrain.candidates import Candidates, candidate_detections, split_photos, voted
from weaksam.stages.retrain.choice import LEAST_LEAD, Choice, choose
from weaksam.stages.retrain.settings import AnyRetrainSettings
from weaksam.stages.retrain.stage import run
from weaksam.store.store import Store
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances

SAME_OBJECT_IOU = 0.5
"""An old pseudo box that overlaps a new one of its class by as much shows the same object."""
PseudoGt = Mapping[str, Instances]
"""Pseudo ground truth of the training photos by image id."""


@dataclass(frozen=True)
class Teaching:
    """What the rounds of one retraining share."""

    context: RunContext
    settings: AnyRetrainSettings
    weak: DetectorResult
    """The weak detector with its detections on both splits."""
    proposals: Mapping[str, Store]
    """By split; only box voting reads them."""
    pseudo_gt_of: Callable[[Mapping[str, Instances]], PseudoGt]
    """Makes pseudo ground truth of detections on the training photos."""
    segmenter: Callable[[], Segmenter] | None = None
    """Gives the segmenter that cuts objects out; only copy-paste asks for it."""
    name: str = "retrain"
    """Folder below ``context.out``."""


@dataclass(frozen=True)
class RetrainResult(DetectorResult):
    """The network that was kept, the detections that were chosen (``stores``), and what they were chosen from.

    ``weights``, ``fingerprint`` and ``backbone`` are the network's.
    """

    network_stores: Mapping[str, Store]
    """What the network itself detected, by split."""
    candidates: Candidates
    """Sealed detections by whose they are and by split."""
    choice: Choice
    """Whose detections ``stores`` are, and why."""
    pseudo_gt: PseudoGt
    """What the network was taught last."""
    rounds: int
    """Further trainings after the first one that were kept."""


def run_and_choose(teaching: Teaching, pseudo_gt: PseudoGt) -> RetrainResult:
    """Train the detector of `run`, and choose among the weak detector's detections, its own and both merged.

    The chosen ones move by ``settings.box_voting``. Where ``settings.rounds`` asks for it, those on the training photos
    are the teacher of the next round: ``pseudo_gt_of`` makes pseudo ground truth of them, old boxes that it lacks are
    kept, and the network is trained on it from its last weights. Rounds end where the network's signal falls by
    `LEAST_LEAD`, where the teacher finds nothing, or where the weak detector is chosen, whose boxes the network knows.

    Writes ``OUT/<name>/detections_<split>.json``, which are the chosen ones, and ``network_detections_<split>.json``.
    Raises `UserError` as `run` does.
    """
    context, name = teaching.context, teaching.name
    network = run(
        context,
        teaching.settings,
        pseudo_gt,
        weak_detector=teaching.weak,
        proposals=teaching.proposals,
        segmenter=teaching.segmenter,
        name=name,
        files="network_detections",
    )
    result = _chosen(teaching, network, pseudo_gt, 0)
    for number in range(1, teaching.settings.rounds + 1):
        after = _next_round(teaching, result, number)
        if after is None:
            break
        result = after
    write_detections(context, result, name)
    context.log.write(
        "choice",
        stage=name,
        choice=result.choice.name,
        reason=result.choice.reason,
        signals=result.choice.signals,
        rounds=result.rounds,
    )
    return result


def write_detections(context: RunContext, result: RetrainResult, name: str) -> None:
    """Write the chosen detections and those of the network as COCO results, a file each and split."""
    for files, stores in (("detections", result.stores), ("network_detections", result.network_stores)):
        for split, store in stores.items():
            path = context.out / name / f"{files}_{split}.json"
            write_results(path, split_photos(context, split), instances_of(store))


def joined_boxes(new: PseudoGt, old: PseudoGt) -> dict[str, Instances]:
    """New pseudo boxes, with the old ones that overlap no new one of their class by `SAME_OBJECT_IOU` or more.

    CutLER (Wang et al. 2023) keeps those as objects. Ours: they stay objects where the photo has no new box of their
    class, else they are regions to ignore (``crowd``), since the detections that made the new ones had seen them. A
    photo that one of the two does not name has no box of it.
    """
    return {
        image_id: _joined(new.get(image_id, Instances.empty()), old.get(image_id, Instances.empty()))
        for image_id in {**old, **new}
    }


def _joined(new: Instances, old: Instances) -> Instances:
    """`joined_boxes` of one photo."""
    new, old = _plain(new), _plain(old)
    same = (pairwise_iou(old.boxes, new.boxes) >= SAME_OBJECT_IOU) & (old.labels[:, None] == new.labels)
    rest = old[~same.any(dim=1)]
    crowd = torch.zeros(len(rest), dtype=torch.bool) if rest.crowd is None else rest.crowd
    return Instances.cat([new, rest.replace(crowd=crowd | torch.isin(rest.labels, new.without_crowd().labels))])


def _plain(instances: Instances) -> Instances:
    """Boxes, labels and the marks of regions to ignore."""
    return Instances(instances.boxes, instances.labels, crowd=instances.crowd)


def _chosen(teaching: Teaching, network: DetectorResult, pseudo_gt: PseudoGt, rounds: int) -> RetrainResult:
    """The network with the detections that its signal, or the settings, choose."""
    context, settings, name = teaching.context, teaching.settings, teaching.name
    candidates = candidate_detections(context, settings, teaching.weak, network, name)
    choice = choose(context.train, candidates, settings.choice)
    return RetrainResult(
        network.weights,
        network.fingerprint,
        voted(context, settings, candidates[choice.name], teaching.proposals, name),
        network.backbone,
        network_stores=network.stores,
        candidates=candidates,
        choice=choice,
        pseudo_gt=pseudo_gt,
        rounds=rounds,
    )


def _next_round(teaching: Teaching, last: RetrainResult, number: int) -> RetrainResult | None:
    """The result of one more round; None, with a line in the log, where there is no better one."""
    log, name = teaching.context.log, teaching.name
    why_not = _no_teacher(last)
    taught = {} if why_not else teaching.pseudo_gt_of(last.detections("train"))
    if not why_not and not any(len(boxes.without_crowd()) for boxes in taught.values()):
        why_not = "the teacher finds no box of a tag"
    if why_not:
        log.write("round left out", stage=name, round=number, reason=why_not)
        return None
    boxes = joined_boxes(taught, last.pseudo_gt)
    after = _chosen(teaching, _taught_again(teaching, last, boxes), boxes, number)
    before_signal, after_signal = (result.choice.signals["retrained"] for result in (last, after))
    kept = after_signal > before_signal - LEAST_LEAD
    log.write("round", stage=name, round=number, before=before_signal, after=after_signal, kept=kept)
    return after if kept else None


def _taught_again(teaching: Teaching, last: RetrainResult, boxes: PseudoGt) -> DetectorResult:
    """The network of ``last``, trained on from its weights."""
    # Its weights stand for the backbone that they began with
    settings = shortened(teaching.settings).model_copy(
        update={"backbone": None, "new_classes": False, "start": "backbone"}
    )
    return run(
        replace(teaching.context, backbone=last.backbone),
        settings,
        boxes,
        last.weights.parent,
        weak_detector=teaching.weak,
        proposals=teaching.proposals,
        segmenter=teaching.segmenter,
        name=teaching.name,
        files="network_detections",
    )


def _no_teacher(last: RetrainResult) -> str | None:
    """Why the result of a round cannot teach the next one; None where it can."""
    if "train" not in last.stores:
        return "no detections on the training photos (detect_train=false)"
    if last.choice.name == "weak":
        return "the weak detector was chosen, whose boxes the network knows"
    return None


def shortened(settings: AnyRetrainSettings) -> AnyRetrainSettings:
    """``settings`` of a further round: ``round_share`` of the first training's epochs, or steps, at least one."""
    num_steps = None if settings.num_steps is None else max(1, round(settings.num_steps * settings.round_share))
    num_epochs = max(1, round(settings.num_epochs * settings.round_share))
    return settings.model_copy(update={"num_epochs": num_epochs, "num_steps": num_steps})
