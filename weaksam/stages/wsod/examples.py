"""Make a training example of each photo: its proposals, its tags and the seeds that its class maps suggest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.sample_photos import reading_ahead
from weaksam.data.tag_signal import tag_notes
from weaksam.engine.context import RunContext
from weaksam.engine.seeds import derive_seed
from weaksam.models.wsod.targets import Seeds, empty_seeds
from weaksam.stages.wsod.seeds.class_maps import (
    ClassMapSeedSettings,
    instance_seeds,
    region_contrast,
    region_support,
)
from weaksam.stages.wsod.seeds.given_labels import of_present, trusted_seeds
from weaksam.stages.wsod.seeds.overlaps import Overlaps
from weaksam.stages.wsod.seeds.relocation import RelocationSettings
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.store.progress import progress
from weaksam.store.store import Store
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.dataset import Sample
from weaksam.structures.devices import moved_together
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle
from weaksam.structures.photo_labels import NO_LABELS, PhotoLabels
from weaksam.terminal import say

ClassMaps = Callable[[str], tuple[Tensor, Tensor]]
"""image_id -> labels ``(L,)`` and class maps ``(L, h, w)``."""


@dataclass(frozen=True)
class TrainingExample:
    """One photo: its N proposals ``(N, 4)`` xyxy in photo pixels, its tags ``(C,)`` in {0, 1} and their T labels.

    ``clue_seeds``: seeds from its class maps, empty where the rule needs none. ``first_values`` (N, T): what the class
    maps say of each proposal for each tag, where relocation starts from them. ``truth``: its true boxes, in the ceiling
    alone. ``labels``: what was labelled on it beside its tags, which stands above all seeds.
    """

    sample: Sample
    boxes: Tensor
    tags: Tensor
    present: Tensor
    """Labels ``(T,)`` of the tags, ascending; counted on the host, so that no later step waits for the device."""
    clue_seeds: Seeds
    first_values: Tensor | None = None
    truth: Instances | None = None
    labels: PhotoLabels = NO_LABELS

    @cached_property
    def overlaps(self) -> Overlaps:
        """Which proposals overlap how much; mirroring or resizing the photo does not change it.

        Computed once and kept as long as this example is: `ExampleCache` says how many are.
        """
        return Overlaps(pairwise_iou(self.boxes, self.boxes))

    def on(self, device: torch.device) -> TrainingExample:
        """The example with what a step needs on ``device``, in two copies that do not wait."""
        if device.type == self.boxes.device.type:
            return self
        columns = [self.boxes, self.tags, self.present, *self.clue_seeds]
        boxes, tags, present, *seeds = moved_together(columns, device)
        truth = None if self.truth is None else self.truth.to(device)
        return replace(self, boxes=boxes, tags=tags, present=present, clue_seeds=Seeds(*seeds), truth=truth)


@dataclass(frozen=True)
class ExampleBatch:
    """Photos of one step, each with whether its mirror image is shown.

    Where several processes compute a step, these are this one's; see `shared_out`.
    """

    examples: tuple[TrainingExample, ...]
    mirrored: tuple[bool, ...]
    seeds: tuple[int, ...] = ()
    """What the random numbers of each photo follow from; none: the global random numbers."""
    num_photos: int | None = None
    """Photos of the whole batch that have a proposal; None: those of ``examples``."""
    ids: tuple[str, ...] | None = None
    """Of the photos of the whole batch; None: those of ``examples``."""
    counts: bool = True
    """Whether the photos are part of the batch, see `Ranks.share`."""

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the photos, for messages."""
        return tuple(example.sample.image_id for example in self.examples) if self.ids is None else self.ids

    @property
    def useful(self) -> list[int]:
        """Numbers of the photos that have a proposal."""
        return [number for number, example in enumerate(self.examples) if len(example.boxes)]

    @property
    def num_useful(self) -> int:
        """Photos of the whole batch that have a proposal."""
        return len(self.useful) if self.num_photos is None else self.num_photos

    def seeds_of(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """The seeds of the photos of these numbers; none where there are none."""
        return tuple(self.seeds[number] for number in numbers) if self.seeds else ()


def photo_seeds(examples: Sequence[TrainingExample]) -> list[int]:
    """What the random numbers of each photo follow from in an epoch: one global draw, made here, and its id."""
    draw = int(torch.randint(2**62, ()))
    return [derive_seed(draw, example.sample.image_id) for example in examples]


def present_labels(tags: Tensor) -> Tensor:
    """Labels ``(T,)`` int64, ascending, of multi-hot ``tags`` (C,).

    The only step whose shape depends on values: call it once per photo, where the tags are on the host.
    """
    return tags.nonzero()[:, 0]


def best_proposals(row: Mapping[str, Any], num: int) -> Tensor:
    """Boxes ``(n, 4)`` of a proposal row, n <= ``num``: the store holds the best first."""
    return row["boxes"][:num]


def make_example(
    sample: Sample,
    row: Mapping[str, Any],
    tags: Tensor,
    maps: tuple[Tensor, Tensor] | None,
    settings: WsodSettings,
    photo_labels: PhotoLabels = NO_LABELS,
) -> TrainingExample:
    """Prepare one photo: its proposals and what its class ``maps`` (labels, maps) suggest; no seed without maps.

    ``row``: the photo's row of the proposals' store; ``tags`` (C,) in {0, 1}. Maps of classes that are no tag, as the
    clues of a photo without tags have them, suggest nothing. ``photo_labels``: what was labelled beside the tags.
    """
    boxes = best_proposals(row, settings.num_proposals)
    example = TrainingExample(sample, boxes, tags, present_labels(tags), empty_seeds(), labels=photo_labels)
    rule = settings.seeds
    if maps is None:
        return example
    labels, class_maps = maps
    is_tag = tags[labels] > 0
    labels, class_maps = labels[is_tag], class_maps[is_tag]
    if isinstance(rule, RelocationSettings):
        return replace(example, first_values=_first_values(example, row, labels, class_maps, rule))
    if not isinstance(rule, ClassMapSeedSettings) or len(boxes) == 0:
        return example
    masks = _masks(row, len(boxes))
    index, which, weight = instance_seeds(class_maps, masks, share=rule.share, max_seeds=rule.max_seeds)
    seeds = Seeds(index, labels[which], weight)
    if not photo_labels.says_nothing:
        contrast = of_present(region_contrast(class_maps, masks), labels, len(tags))
        seeds = trusted_seeds(seeds, contrast, boxes, photo_labels)
    return replace(example, clue_seeds=seeds)


def _first_values(
    example: TrainingExample, row: Mapping[str, Any], labels: Tensor, class_maps: Tensor, rule: RelocationSettings
) -> Tensor:
    """Contrast or support ``(N, T)`` of each proposal for each tag; 0 for a tag without a class map."""
    num = len(example.boxes)
    values = torch.zeros(num, len(example.present))
    if num == 0 or len(labels) == 0:
        return values
    of_maps = region_contrast(class_maps, _masks(row, num))
    if rule.start == "support":
        of_maps = region_support(of_maps, example.overlaps.iou)
    column = {label: number for number, label in enumerate(example.present.tolist())}
    values[:, [column[label] for label in labels.tolist()]] = of_maps
    return values


def _masks(row: Mapping[str, Any], num: int) -> Tensor:
    """Masks ``(num, h, w)`` bool of the first proposals of a row, at least one."""
    return torch.stack([mask_from_rle(rle) for rle in row["rles"][:num]])


def make_examples(
    context: RunContext,
    settings: WsodSettings,
    proposals: Store,
    class_maps: ClassMaps,
    prepare: Callable[[Sample], Any],
    truths: Mapping[str, Instances] | None = None,
) -> list[TrainingExample]:
    """One example for each training photo, in their order; ``prepare`` is called on each photo before.

    With ``truths`` the examples hold true boxes instead of seeds; a photo without any has none. Tags that teach little
    are named on stderr and in the log. Raises:
        UserError: the proposals are another dataset's, or no training photo has one.
    """
    for note in tag_notes(context.train):
        say(f"wsod: {note}", error=True)
        context.log.write("tags", note=note)
    tags = context.train.tag_matrix()
    wants_maps = truths is None and isinstance(settings.seeds, RelocationSettings | ClassMapSeedSettings)
    examples = []
    with reading_ahead(context.train.samples):
        for row, sample in enumerate(progress(context.train, len(context.train), "wsod: preparing photos")):
            prepare(sample)
            maps = class_maps(sample.image_id) if wants_maps else None
            labels = context.labels.get(sample.image_id, NO_LABELS) if truths is None else NO_LABELS
            example = make_example(sample, proposals[sample.image_id], tags[row], maps, settings, labels)
            truth = None if truths is None else truths.get(sample.image_id, Instances.empty())
            examples.append(replace(example, truth=truth))
    if not any(len(example.boxes) for example in examples):
        raise UserError(
            "wanted proposals on the training photos, found none: loosen the settings of the proposals stage"
        )
    return examples
