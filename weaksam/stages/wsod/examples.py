"""What one training photo teaches: its proposals, tags and the seeds its class maps suggest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.tag_signal import tag_notes
from weaksam.engine.context import RunContext
from weaksam.models.wsod.targets import Seeds, empty_seeds
from weaksam.stages.wsod.seeds.class_maps import instance_seeds, region_contrast, region_support
from weaksam.stages.wsod.seeds.oicr import present_labels
from weaksam.stages.wsod.seeds.overlaps import Overlaps
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.store.progress import progress
from weaksam.store.store import Store
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle

ClassMaps = Callable[[str], tuple[Tensor, Tensor]]
"""image_id -> labels ``(L,)`` and class maps ``(L, h, w)``."""


@dataclass(frozen=True)
class Lesson:
    """One photo: its N proposals ``(N, 4)`` xyxy in photo pixels, tags ``(C,)`` and seeds from its class maps.

    ``first_values`` (N, T): what its class maps say of each proposal for each tag, where they will be relocated.
    ``truth``, its true boxes, is there in the ceiling alone.
    """

    sample: Sample
    boxes: Tensor
    tags: Tensor
    clue_seeds: Seeds
    first_values: Tensor | None = None
    truth: Instances | None = None

    @cached_property
    def overlaps(self) -> Overlaps:
        """Which proposals overlap how much, computed once: mirroring or resizing the photo does not change it."""
        return Overlaps(pairwise_iou(self.boxes, self.boxes))

    @cached_property
    def present(self) -> Tensor:
        """Labels ``(T,)`` of the tags."""
        return present_labels(self.tags)

    def on(self, device: torch.device) -> Lesson:
        """The lesson with its tensors on ``device``; labels are counted on the host, where nothing waits for it."""
        if device.type == self.boxes.device.type:
            return self
        seeds = Seeds(*(one.to(device) for one in self.clue_seeds))
        truth = None if self.truth is None else self.truth.to(device)
        moved = replace(self, boxes=self.boxes.to(device), tags=self.tags.to(device), clue_seeds=seeds, truth=truth)
        moved.__dict__["present"] = self.present.to(device)
        return moved


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
    sample: Sample, row: Mapping[str, Any], tags: Tensor, maps: tuple[Tensor, Tensor] | None, settings: WsodSettings
) -> Lesson:
    """Prepare one photo: its proposals and the seeds its class ``maps`` (labels, maps) suggest; none without maps."""
    boxes = best_proposals(row, settings.num_proposals)
    lesson = Lesson(sample, boxes, tags, empty_seeds())
    if maps is None:
        return lesson
    labels, class_maps = maps
    if settings.relocate_rounds > 0:
        values = torch.zeros(len(boxes), int(tags.sum()))
        if len(boxes) and len(labels):
            place = {label: number for number, label in enumerate(lesson.present.tolist())}
            worth = region_contrast(class_maps, _masks(row, len(boxes)))
            if settings.relocate_from == "support":
                worth = region_support(worth, lesson.overlaps.iou)
            values[:, [place[label] for label in labels.tolist()]] = worth
        return replace(lesson, first_values=values)
    if len(boxes) == 0:
        return lesson
    index, which, weight = instance_seeds(
        class_maps, _masks(row, len(boxes)), share=settings.seed_share, max_seeds=settings.max_seeds
    )
    return replace(lesson, clue_seeds=Seeds(index, labels[which], weight))


def _masks(row: Mapping[str, Any], num: int) -> Tensor:
    """Masks ``(num, h, w)`` bool of the first proposals of a row, at least one."""
    return torch.stack([mask_from_rle(rle) for rle in row["rles"][:num]])


def make_lessons(
    context: RunContext,
    settings: WsodSettings,
    proposals: Store,
    class_maps: ClassMaps,
    prepare: Callable[[Sample], Any],
    truths: Mapping[str, Instances] | None = None,
) -> list[Lesson]:
    """Every training photo's lesson; ``prepare`` is called on each photo on the way.

    With ``truths`` the lessons teach the true boxes; a photo without any has none.

    Says on stderr and in the log which tags teach little. Raises:
        UserError: the proposals are another dataset's, or no training photo has one.
    """
    for note in tag_notes(context.train):
        print(f"wsod: {note}", file=sys.stderr, flush=True)
        context.log.write("tags", note=note)
    tags = context.train.tag_matrix()
    lessons = []
    for row, sample in enumerate(progress(context.train, len(context.train), "wsod: preparing photos")):
        prepare(sample)
        maps = class_maps(sample.image_id) if settings.seeds == "clues" and truths is None else None
        lesson = make_lesson(sample, proposals[sample.image_id], tags[row], maps, settings)
        truth = None if truths is None else truths.get(sample.image_id, Instances.empty())
        lessons.append(replace(lesson, truth=truth))
    if not any(len(lesson.boxes) for lesson in lessons):
        raise UserError(
            "wanted proposals on the training photos, found none: loosen the settings of the proposals stage"
        )
    return lessons
