"""Turn pseudo boxes into pseudo masks with the segmenter, and keep them with their quality in a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import UserError, fingerprint_of
from weaksam.data.detection_stores import instances_key
from weaksam.data.sample_photos import read_photos_ahead
from weaksam.engine.context import RunContext
from weaksam.engine.labelled_masks import points_of_marks, with_given_masks
from weaksam.engine.seeds import derive_seed
from weaksam.engine.usable_boxes import usable_objects
from weaksam.sam.batches import BatchLimit, encode_all
from weaksam.sam.box_masks import BoxMasks, BoxMaskSettings, box_prompts, mask_quality, masks_of_boxes, points_inside
from weaksam.sam.ensemble import fused_boxes
from weaksam.sam.flipped_views import FlippedView, draw_views
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Segmenter
from weaksam.store.store import Store, store_folder
from weaksam.structures.clue_points import CluePeaks, PeaksOf
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import NO_LABELS, SCRIBBLE_POINTS, PhotoLabels, labels_fingerprint
from weaksam.terminal import say


class PromptedMaskSettings(BoxMaskSettings):
    """How boxes, and perhaps clue points beside them, prompt a frozen segmenter for masks."""

    _as_before: ClassVar[Mapping[str, Any]] = {"prompt_peaks": 0, "ensemble_views": 0}

    prompt_peaks: int = Field(0, ge=0)
    """Clue points of a box's class inside it that prompt together with it, the highest peaks first; 0: boxes alone."""
    ensemble_views: int = Field(0, ge=0)
    """Augmented views of a photo over which each mask is fused (WS-SAM has 12); 0: the photo itself, once."""


@dataclass(frozen=True)
class StoredPeaks:
    """Peaks that may prompt beside boxes: ``of`` a photo by its image id, from what ``fingerprint`` names."""

    of: PeaksOf
    fingerprint: str


MASK_COLUMNS = {
    "boxes": "boxes",
    "labels": "ints",
    "scores": "floats",
    "predicted_iou": "floats",
    "stability": "floats",
    "box_agreement": "floats",
    "rles": "rles",
}
"""Columns of a store of pseudo masks, see `make_pseudo_masks`."""
_PHOTOS_AHEAD = 2
_PHOTOS_AT_ONCE, _PHOTOS_AT_ONCE_ON_CUDA = 1, 8
_PROMPTS_AT_ONCE = 64


def make_pseudo_masks(
    context: RunContext,
    settings: PromptedMaskSettings,
    segmenter: Segmenter,
    pseudo_gt: Mapping[str, Instances],
    name: str,
    peaks: StoredPeaks | None = None,
) -> Store:
    """The sealed store of one mask per pseudo box of every training photo (an empty row where there is none).

    Columns: boxes, labels and scores (1 where ``pseudo_gt`` has none) of ``pseudo_gt``, the mask as RLE, and of each
    what `BoxMasks` says: ``predicted_iou``, ``stability`` and ``box_agreement``; instances that carry masks keep them,
    with 1 for all three. Those marked ``crowd`` take no pixels from others. With ``settings.prompt_peaks`` the
    ``peaks`` prompt too. With ``settings.ensemble_views`` each mask is fused over views of its photo (`fused_boxes`),
    drawn by (seed, image id), and ``stability`` says how far they agree. What was labelled on the photos
    (``context.labels``) takes part: labelled points prompt beside the box that holds them, and labelled boxes keep the
    mask that they were given, with 1 for all three. Photos are decoded ahead on threads and encoded several at a time;
    those without a box to prompt with are not read. Where some of ``pseudo_gt`` are to be ignored, ``crowd`` says
    which.
    """
    ignores = _has_ignored(pseudo_gt)
    fingerprint = _fingerprint(context, settings, segmenter, pseudo_gt, name, peaks)
    folder = store_folder(context.out, name, "box_masks", fingerprint)
    image_ids = context.train.image_ids
    columns = MASK_COLUMNS | ({"crowd": "ints"} if ignores else {})
    store = Store(folder, stage=name, fingerprint=fingerprint, image_ids=image_ids, columns=columns)

    def note(sentence: str) -> None:
        say(f"{name}: {sentence}", error=True)
        context.log.write("out_of_memory", stage=name, note=sentence)

    at_once = _PHOTOS_AT_ONCE_ON_CUDA if context.device.type == "cuda" else _PHOTOS_AT_ONCE
    photos, prompts = BatchLimit(at_once, "photos", note), BatchLimit(_PROMPTS_AT_ONCE, "prompts", note)

    def rows(part: Sequence[str]) -> Iterator[dict[str, Any]]:
        objects = {image_id: pseudo_gt.get(image_id, Instances.empty()) for image_id in part}
        prompted = [image_id for image_id in part if len(objects[image_id]) and objects[image_id].masks is None]
        images = read_photos_ahead([context.train.by_id[image_id] for image_id in prompted], _PHOTOS_AHEAD)
        embeddings = iter(()) if settings.ensemble_views else encode_all(segmenter, images, photos)
        for image_id in part:
            if image_id in prompted:
                of_photo = CluePeaks.none() if peaks is None else peaks.of(image_id)
                known, boxes = context.labels.get(image_id, NO_LABELS), objects[image_id]
                wanted = prompts_of_boxes(boxes, of_photo, settings, known)
                if settings.ensemble_views:
                    views = _views(context, name, image_id, settings)
                    masks = fused_boxes(segmenter, next(images), wanted, settings, views, photos, free=boxes.crowd)
                else:
                    masks = masks_of_boxes(segmenter, next(embeddings), wanted, settings, prompts, free=boxes.crowd)
                masks = with_given_masks(masks, boxes, known)
            else:
                masks = kept_masks(objects[image_id])
            yield {"image_id": image_id, **_row(objects[image_id], masks, ignores)}

    return store.fill_parts(rows, f"{name}: pseudo masks")


def _fingerprint(
    context: RunContext,
    settings: PromptedMaskSettings,
    segmenter: Segmenter,
    pseudo_gt: Mapping[str, Instances],
    name: str,
    peaks: StoredPeaks | None,
) -> str:
    """What decides the masks; `UserError` where peaks are wanted and there are none."""
    prompting = settings.prompting_key()
    if settings.prompt_peaks:
        if peaks is None:
            raise UserError(
                f"wanted clue points for {name}.prompt_peaks={settings.prompt_peaks}, found none: run the clues stage "
                f"first, or set {name}.prompt_peaks=0"
            )
        prompting |= {"prompt_peaks": settings.prompt_peaks, "peaks": peaks.fingerprint}
    if settings.ensemble_views:
        prompting |= {"ensemble_views": settings.ensemble_views, "seed": context.seed}
    if labelled := labels_fingerprint(context.labels, "masks", "marks"):
        prompting |= {"labels": labelled}
    return fingerprint_of(
        {
            "stage": f"{name} pseudo masks",
            "segmenter": segmenter.fingerprint,
            "train": context.train.fingerprint,
            "pseudo_gt": instances_key(pseudo_gt),
            **prompting,
        }
        | ({"columns": "crowd"} if _has_ignored(pseudo_gt) else {})
    )


def prompts_of_boxes(
    objects: Instances, peaks: CluePeaks, settings: PromptedMaskSettings, labels: PhotoLabels = NO_LABELS
) -> Prompts:
    """A prompt for each box of ``objects``, with the ``peaks`` inside it as far as ``settings`` want them.

    A box that holds a labelled point or scribble of its class (``labels``) is prompted with that instead.
    """
    points = peaks_of_boxes(objects, peaks) if settings.prompt_peaks else [torch.zeros(0, 2)] * len(objects)
    most = settings.prompt_peaks
    if len(labels.marks.labels):
        marked = points_of_marks(objects, labels)
        columns = zip(marked, points, objects.boxes, strict=True)
        points = [marks if len(marks) else points_inside(of_box, box)[:most] for marks, of_box, box in columns]
        most = max(most, SCRIBBLE_POINTS)
    return box_prompts(objects.boxes, points, most) if most else Prompts(boxes=objects.boxes)


def _views(context: RunContext, name: str, image_id: str, settings: PromptedMaskSettings) -> list[FlippedView]:
    """The views of a photo over which its masks are fused."""
    generator = torch.Generator().manual_seed(derive_seed(context.seed, name, "views", image_id))
    return draw_views(settings.ensemble_views, generator)


def peaks_of_boxes(objects: Instances, peaks: CluePeaks) -> list[Tensor]:
    """For each object the peaks ``(K, 2)`` xy of its class anywhere on the photo, the highest first."""
    order = peaks.heights.argsort(descending=True, stable=True)
    return [peaks.points[order][peaks.labels[order] == label].float() for label in objects.labels.tolist()]


def kept_masks(objects: Instances) -> BoxMasks:
    """The masks that ``objects`` carry, trusted wholly; none where there is no object."""
    sure = torch.ones(len(objects))
    return BoxMasks(list(objects.masks or ()), sure, sure, sure)


def _has_ignored(pseudo_gt: Mapping[str, Instances]) -> bool:
    """Whether any object is to be ignored."""
    return any(objects.crowd is not None and bool(objects.crowd.any()) for objects in pseudo_gt.values())


def _row(objects: Instances, masks: BoxMasks, ignores: bool) -> dict[str, Any]:
    """What the store keeps of a photo; with ``ignores`` which objects are to be ignored, too."""
    marks = torch.zeros(len(objects), dtype=torch.bool) if objects.crowd is None else objects.crowd
    return ({"crowd": marks.long()} if ignores else {}) | {
        "boxes": objects.boxes,
        "labels": objects.labels,
        "scores": objects.scores if objects.scores is not None else torch.ones(len(objects)),
        "predicted_iou": masks.predicted_iou,
        "stability": masks.stability,
        "box_agreement": masks.box_agreement,
        "rles": masks.rles,
    }


def stored_qualities(store: Store) -> dict[str, Tensor]:
    """The quality ``(N,)`` in [0, 1] of every pseudo mask of a sealed store by image id, see `mask_quality`."""
    return {
        row["image_id"]: mask_quality(row["predicted_iou"], row["box_agreement"])
        for row in store.rows("predicted_iou", "box_agreement")
    }


def stored_certainties(store: Store) -> dict[str, Tensor]:
    """The stability ``(N,)`` in [0, 1] of every pseudo mask by image id: of fused ones how far the views agree."""
    return {row["image_id"]: row["stability"] for row in store.rows("stability")}


def usable_pseudo_gt(context: RunContext, pseudo_gt: Mapping[str, Instances], name: str) -> dict[str, Instances]:
    """The objects of the training photos that can have a mask; a sentence is said and logged of each that cannot."""
    usable: dict[str, Instances] = {}
    for image_id, objects in pseudo_gt.items():
        if image_id not in context.train.by_id:
            usable[image_id] = objects
            continue
        usable[image_id], problems = usable_objects(objects, context.train.by_id[image_id])
        for problem in problems:
            say(f"{name}: {problem}", error=True)
            context.log.write("object left out", stage=name, note=problem)
    return usable
