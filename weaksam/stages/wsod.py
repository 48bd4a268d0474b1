"""WSOD: learn from proposals, tags and class maps which proposal is what, and detect with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from weaksam.artifacts import Store, stage_fingerprint, store_folder
from weaksam.config import Settings, UserError
from weaksam.data.coco import write_results
from weaksam.data.dataset import Dataset, Sample
from weaksam.engine.context import RunContext
from weaksam.engine.detection import detection_store, instances_of
from weaksam.engine.photo_features import PhotoFeatures, Projection, View, tags_matrix
from weaksam.engine.progress import progress
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.tag_checks import tag_notes
from weaksam.engine.training import fit, load_trained, warmup_cosine
from weaksam.models.backbones import backbone_fingerprint, build_features
from weaksam.models.box_deltas import box_loss, decode_boxes, mirrored_deltas
from weaksam.models.clue_seeds import instance_seeds
from weaksam.models.oicr import Seeds, refine_loss, separate_seeds, top_share_seeds
from weaksam.models.wsddn import wsddn_loss
from weaksam.models.wsod_head import HeadOutput, WsodHead, mean_class_probabilities
from weaksam.models.wsod_targets import Compare, assign_rois, mist_seeds, oicr_seeds, oicr_top_seeds, present_labels
from weaksam.structures.boxes import batched_nms, clip, hflip, pairwise_iou, scale
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle

ClassMaps = Callable[[str], tuple[Tensor, Tensor]]
"""image_id -> labels ``(L,)`` and class maps ``(L, h, w)``."""


class WsodSettings(Settings):
    """The weakly supervised detector: what it sees, how it is seeded, how it learns and how it is used."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"max_cache_gib"})
    _added_later: ClassVar[frozenset[str]] = frozenset(
        {"mist_share", "mist_iou", "mist_compare", "first_branch_weight", "box_regression"}
    )

    long_side: int = Field(448, ge=64, le=4096, description="longer side of the input, pixels")
    num_proposals: int = Field(100, ge=1, description="best proposals of a photo that are looked at")
    num_branches: int = Field(3, ge=1, le=10, description="OICR refinement branches")
    reduced: int = Field(256, ge=8, description="principal components of the frozen features that are kept")
    hidden: int = Field(512, ge=8, description="units of each hidden layer")
    roi_size: int = Field(5, ge=1, le=14, description="cells a side of a RoI")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout in the hidden layers")
    seeds: Literal["clues", "scores", "oicr", "oicr_top", "mist"] = Field(
        "clues",
        description="what seeds the branches: class maps, or WSDDN, the first; a published rule, all: OICR's released "
        "one, its paper's single top box, MIST",
    )
    seed_share: float = Field(
        0.5, gt=0, le=1, description="least contrast of a further instance, as a share of the first"
    )
    max_seeds: int = Field(5, ge=1, description="most seeds of a class in a photo taken from the class maps")
    score_share: float = Field(0.9, gt=0, le=1, description="seeds of later branches score this share of the best")
    several: bool = Field(True, description="several seeds per class in later branches, thinned class by class")
    mist_share: float = Field(0.15, gt=0, le=1, description="share of the proposals that MIST takes as candidates")
    mist_iou: float = Field(0.2, gt=0, le=1, description="MIST's seeds of a class overlap less than this")
    mist_compare: Compare = Field("ranked", description="a MIST seed is far from all better candidates, or those kept")
    first_branch_weight: float | None = Field(
        None, gt=0, description="weight of the first branch's losses; none: 3 with MIST, else 1"
    )
    box_regression: bool = Field(False, description="every branch also moves its boxes, class by class")
    foreground_iou: float = Field(0.5, gt=0, le=1, description="least IoU with a seed to take its class")
    num_epochs: int = Field(10, ge=1, description="passes over the photos")
    batch_size: int = Field(2, ge=1, description="photos per step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of AdamW")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up, before a cosine to 0")
    clip_norm: float = Field(5.0, gt=0, description="gradients are cut to this norm")
    nms_iou: float = Field(0.3, gt=0, le=1, description="suppression of detections, per class")
    min_score: float = Field(0.001, ge=0, le=1, description="least score of a detection")
    max_boxes: int = Field(100, ge=1, description="most detections of a photo")
    max_cache_gib: float = Field(2.0, ge=0, description="memory for frozen features; what does not fit is recomputed")


@dataclass(frozen=True)
class WsodResult:
    """The sealed weights, their fingerprint, and the sealed detections of ``train`` and, if there is one, ``test``."""

    weights: Path
    fingerprint: str
    stores: Mapping[str, Store]

    def detections(self, split: str) -> dict[str, Instances]:
        """Detections of ``test`` or ``train`` by image id."""
        return instances_of(self.stores[split])


@dataclass(frozen=True)
class Lesson:
    """What one training photo brings: its N proposals ``(N, 4)``, their pairwise IoU, tags ``(C,)`` and clue seeds."""

    sample: Sample
    boxes: Tensor
    pairwise_iou: Tensor
    tags: Tensor
    clue_seeds: Seeds

    @cached_property
    def present(self) -> Tensor:
        """Labels ``(T,)`` of the tags."""
        return present_labels(self.tags)


@dataclass(frozen=True)
class Batch:
    """Photos of one step, each with whether its mirror image is shown."""

    lessons: tuple[Lesson, ...]
    mirrored: tuple[bool, ...]

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the photos, for messages."""
        return tuple(lesson.sample.image_id for lesson in self.lessons)


def best_proposals(row: Mapping[str, Any], num: int) -> Tensor:
    """Boxes ``(n, 4)`` of a proposal row, n <= ``num``: the store holds the best first."""
    return row["boxes"][:num]


def make_lesson(
    sample: Sample, row: Mapping[str, Any], tags: Tensor, maps: tuple[Tensor, Tensor], settings: WsodSettings
) -> Lesson:
    """Prepare one photo: its proposals, their overlaps and the seeds its class ``maps`` (labels, maps) suggest."""
    boxes = best_proposals(row, settings.num_proposals)
    labels, class_maps = maps
    masks = [mask_from_rle(rle) for rle in row["rles"][: len(boxes)]]
    masks_tensor = torch.stack(masks) if masks else torch.zeros(0, 1, 1, dtype=torch.bool)
    index, which, weight = instance_seeds(
        class_maps, masks_tensor, share=settings.seed_share, max_seeds=settings.max_seeds
    )
    seeds = Seeds(index, labels[which], weight)
    return Lesson(sample, boxes, pairwise_iou(boxes, boxes), tags, seeds)


def rois_in_cells(boxes: Tensor, view: View, width: int, stride: int) -> Tensor:
    """Photo boxes ``(N, 4)`` as feature-map cells of ``view``; mirrored with it, ``width`` being the photo's."""
    shown = hflip(boxes, width) if view.mirrored else boxes
    return scale(shown, view.scale[0] / stride, view.scale[1] / stride)


def branch_seeds(scores: Tensor, lesson: Lesson, settings: WsodSettings) -> Seeds:
    """Seeds from class scores ``(R, C)``: WSDDN's for the first branch, the branch before's for a later one."""
    if settings.seeds == "oicr":
        return oicr_seeds(scores, lesson.present, lesson.pairwise_iou, share=settings.score_share)
    if settings.seeds == "oicr_top":
        return oicr_top_seeds(scores, lesson.present)
    if settings.seeds == "mist":
        mist = {"share": settings.mist_share, "max_iou": settings.mist_iou}
        return mist_seeds(scores, lesson.present, lesson.pairwise_iou, **mist, compare=settings.mist_compare)
    rule = separate_seeds if settings.several else top_share_seeds
    nms_iou = settings.nms_iou if settings.several else 0.5
    return rule(scores, lesson.tags, lesson.boxes, share=settings.score_share, nms_iou=nms_iou)


def photo_losses(output: HeadOutput, lesson: Lesson, settings: WsodSettings) -> dict[str, Tensor]:
    """WSDDN's loss and one refinement loss per branch (OICR, Tang et al., CVPR 2017, as WeakSAM uses it).

    Branch 1 is seeded by the class maps (ours: plain WSDDN scores settle on the most telling part) or by WSDDN's
    scores; each later one by the class probabilities of the branch before it. With box offsets each branch learns the
    box of the seed, too, as in MIST.
    """
    first_weight = settings.first_branch_weight or (3.0 if settings.seeds == "mist" else 1.0)
    losses = {"wsddn": wsddn_loss(output.scores, lesson.tags)}
    source = output.scores
    for number, logits in enumerate(output.refine):
        if number == 0 and settings.seeds == "clues":
            seeds = lesson.clue_seeds
        else:
            seeds = branch_seeds(source.detach(), lesson, settings)
        targets = assign_rois(lesson.pairwise_iou, seeds, foreground_iou=settings.foreground_iou)
        weight = first_weight if number == 0 else 1.0
        losses[f"refine{number + 1}"] = weight * refine_loss(logits, targets)
        if output.deltas:
            losses[f"box{number + 1}"] = weight * box_loss(output.deltas[number], targets, lesson.boxes)
        source = logits.softmax(dim=1)[:, 1:]
    return losses


def detections_from(scores: Tensor, boxes: Tensor, settings: WsodSettings) -> Instances:
    """Detections from class probabilities ``(N, C)`` of proposals ``(N, 4)``: threshold, NMS per class, best first.

    Boxes may also be ``(N, C, 4)``, a box for each class.
    """
    index, labels = (scores > settings.min_score).nonzero(as_tuple=True)
    values = scores[index, labels]
    chosen = boxes[index] if boxes.dim() == 2 else boxes[index, labels]
    keep = batched_nms(chosen, values, labels, settings.nms_iou)[: settings.max_boxes]
    return Instances(chosen[keep], labels[keep], values[keep])


class _Detector:
    """The trained head on the frozen features: photo in, class probabilities of its proposals out."""

    def __init__(self, context: RunContext, settings: WsodSettings, head: WsodHead, photos: PhotoFeatures, stride: int):
        self.context, self.settings, self.head, self.photos, self.stride = context, settings, head, photos, stride

    def output(self, sample: Sample, boxes: Tensor, mirrored: bool) -> HeadOutput:
        """The head's answer for one view of a photo."""
        view = self.photos.views(sample)[int(mirrored)]
        cells = rois_in_cells(boxes, view, sample.size[1], self.stride)
        device = self.context.device
        scores, refine, deltas = self.head(view.features.to(device), cells.to(device))
        in_photo = (mirrored_deltas(one) if mirrored else one for one in deltas)
        return HeadOutput(scores.cpu(), tuple(one.cpu() for one in refine), tuple(one.cpu() for one in in_photo))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Mean losses over the batch's photos that have a proposal; none if no photo has one."""
        found: dict[str, list[Tensor]] = {}
        for lesson, mirrored in zip(batch.lessons, batch.mirrored, strict=True):
            if len(lesson.boxes):
                output = self.output(lesson.sample, lesson.boxes, mirrored)
                for name, value in photo_losses(output, lesson, self.settings).items():
                    found.setdefault(name, []).append(value)
        return {name: torch.stack(values).mean() for name, values in found.items()}

    @torch.inference_mode()
    def detect(self, sample: Sample, boxes: Tensor) -> Instances:
        """Detections of one photo, averaged over it and its mirror image; none without proposals.

        With box offsets, a class's box is the mean over branches and views of where they move the proposal.
        """
        if len(boxes) == 0:
            return Instances.empty()
        outputs = [self.output(sample, boxes, mirrored) for mirrored in (False, True)]
        scores = torch.stack([mean_class_probabilities(output.refine) for output in outputs]).mean(dim=0)
        deltas = [one for output in outputs for one in output.deltas]
        if deltas:
            moved = torch.stack([decode_boxes(boxes, one[:, 1:]) for one in deltas]).mean(dim=0)  # (N, C, 4)
            boxes = clip(moved, sample.size)
        return detections_from(scores, boxes, self.settings)


def run(
    context: RunContext,
    settings: WsodSettings,
    proposals: Mapping[str, Store],
    clue_store: Store,
    class_maps: ClassMaps,
) -> WsodResult:
    """Train on ``context.train`` and detect on it and on the test photos; weights and detections end up sealed.

    ``proposals`` maps ``train`` (and ``test``) to sealed stores; ``class_maps`` answers from ``clue_store``. Writes
    ``OUT/wsod/detections_train.json`` and ``detections_test.json`` (COCO results).

    Raises:
        UserError: no training photo has a proposal.
    """
    inputs = {
        "train": context.train.fingerprint,
        "backbone": backbone_fingerprint(context.backbone),
        "proposals": proposals["train"].fingerprint,
        "clues": clue_store.fingerprint,
        "seed": str(context.seed),
    }
    fingerprint = stage_fingerprint("wsod", settings, inputs)
    folder = store_folder(context.out, "wsod", "weights", fingerprint)
    seed_everything(derive_seed(context.seed, "wsod", "weights"))
    network = build_features(context.backbone).to(context.device)
    stride, depth = list(network.strides.values())[-1], sum(network.channels.values())
    head = WsodHead(
        depth,
        min(settings.reduced, depth),
        len(context.train.classes),
        num_branches=settings.num_branches,
        roi_size=settings.roi_size,
        hidden=settings.hidden,
        dropout=settings.dropout,
        box_regression=settings.box_regression,
    ).to(context.device)
    photos = PhotoFeatures(network, settings.long_side, context.device, settings.max_cache_gib)
    detector = _Detector(context, settings, head, photos, stride)
    _train(context, settings, detector, proposals["train"], class_maps, folder, fingerprint)
    stores = {
        split: _detect(context, settings, detector, store, split, fingerprint) for split, store in proposals.items()
    }
    return WsodResult(folder / "weights.safetensors", fingerprint, stores)


def _train(
    context: RunContext,
    settings: WsodSettings,
    detector: _Detector,
    proposals: Store,
    class_maps: ClassMaps,
    folder: Path,
    fingerprint: str,
) -> None:
    """Train the detector's head; a finished or interrupted training in ``folder`` is taken up."""
    head, photos = detector.head, detector.photos
    if load_trained(head, folder, fingerprint, "wsod"):
        photos.projection = Projection(head.directions.cpu(), head.centre.cpu())
        head.eval()
        return
    projection = photos.fit_projection(context.train, len(head.directions))
    head.directions.copy_(projection.weight)
    head.centre.copy_(projection.mean)
    lessons = _lessons(context, settings, detector, proposals, class_maps)

    def batches(epoch: int) -> list[Batch]:
        order = torch.randperm(len(lessons)).tolist()
        mirrored = (torch.rand(len(lessons)) < 0.5).tolist()
        starts = range(0, len(lessons), settings.batch_size)
        chunks = [order[start : start + settings.batch_size] for start in starts]
        return [Batch(tuple(lessons[i] for i in chunk), tuple(mirrored[i] for i in chunk)) for chunk in chunks]

    fit(
        head,
        detector.losses,
        batches,
        torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay),
        num_epochs=settings.num_epochs,
        num_steps_per_epoch=-(-len(lessons) // settings.batch_size),
        lr_factor=lambda step, total: warmup_cosine(step, total, min(settings.warmup_steps, total // 4)),
        folder=folder,
        fingerprint=fingerprint,
        seed=context.seed,
        label="wsod",
        log=context.log,
        clip_norm=settings.clip_norm,
    )
    head.eval()


def _lessons(
    context: RunContext, settings: WsodSettings, detector: _Detector, proposals: Store, class_maps: ClassMaps
) -> list[Lesson]:
    """Every training photo's lesson; its features are computed on the way."""
    for note in tag_notes(context.train):
        print(f"wsod: {note}", file=sys.stderr, flush=True)
        context.log.write("tags", note=note)
    tags = tags_matrix(context.train)
    lessons = []
    for row, sample in enumerate(progress(context.train, len(context.train), "wsod: preparing photos")):
        detector.photos.views(sample)
        maps = class_maps(sample.image_id)
        lessons.append(make_lesson(sample, proposals[sample.image_id], tags[row], maps, settings))
    if not any(len(lesson.boxes) for lesson in lessons):
        raise UserError(
            "wanted proposals on the training photos, found none: loosen the settings of the proposals stage"
        )
    return lessons


def _detect(
    context: RunContext, settings: WsodSettings, detector: _Detector, proposals: Store, split: str, weights_key: str
) -> Store:
    """Detections of one split as a sealed store and as COCO results."""
    dataset: Dataset | None = context.train if split == "train" else context.test
    assert dataset is not None, f"proposals of {split} without its photos"
    inputs = {"weights": weights_key, "dataset": dataset.fingerprint, "proposals": proposals.fingerprint}
    fingerprint = stage_fingerprint("wsod detections", settings, inputs)
    folder = store_folder(context.out, "wsod", f"detections_{split}", fingerprint)
    store = detection_store(folder, "wsod", fingerprint, dataset, masks=False)

    def row(image_id: str) -> dict[str, Any]:
        boxes = best_proposals(proposals[image_id], settings.num_proposals)
        found = detector.detect(dataset.by_id[image_id], boxes)
        return {"boxes": found.boxes, "labels": found.labels, "scores": found.scores}

    store.fill(row, progress=f"wsod: detecting ({split})")
    write_results(context.out / "wsod" / f"detections_{split}.json", dataset, instances_of(store))
    return store
