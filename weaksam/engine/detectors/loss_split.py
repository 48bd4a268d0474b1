"""Split the pseudo boxes by their losses after a first part of a training: high ones count less from then on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from weaksam.config import Settings, UserError
from weaksam.engine.detectors.training import EpochStart
from weaksam.models.detectors.roi_heads import box_losses
from weaksam.models.ranks import ranks
from weaksam.store.records import read_record, write_record
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances

_OBJECT_IOU = 0.5
FILE = "split.json"
"""In the folder of a training: the losses by which its boxes were split."""


class LossSplitSettings(Settings):
    """Which pseudo boxes count less once a first part of the training has shown their losses.

    Sources: SoS-WSOD (Sui et al., CVPR 2022: photos by their loss, the worse ones left to a teacher), W2N (Huang et
    al., ECCV 2022: class and extent split apart). Per class, so that hard classes keep boxes: ours, as is the measuring
    on photos as they are.
    """

    by: Literal["boxes", "photos"] = "boxes"
    """Shares are of the boxes of each class, or of the photos by the mean loss of their boxes."""
    class_share: float = Field(0.0, ge=0, lt=1)
    """So many with the highest class loss lose their class term; they are no background either."""
    box_share: float = Field(0.0, ge=0, lt=1)
    """So many with the highest box loss lose their box term."""
    teacher_share: float = Field(0.0, ge=0, lt=1)
    """So many with the highest sum of both are ignored, so that only the teacher's boxes teach there (SoS-WSOD: 0.6 of
    the photos)."""
    start_share: float = Field(0.3, ge=0, lt=1)
    """Share of the epochs after which, before the next one, the losses are measured, once."""

    @property
    def active(self) -> bool:
        """Whether anything is split."""
        return self.class_share > 0 or self.box_share > 0 or self.teacher_share > 0


@dataclass(frozen=True)
class BoxLosses:
    """Losses of the N boxes of a photo as they are in its frame; nan for one that teaches nothing. N may be 0."""

    classes: Tensor
    """``(N,)``: mean cross-entropy of the regions that are assigned to a box."""
    extents: Tensor
    """``(N,)``: mean loss of their deltas."""


@dataclass(frozen=True)
class Split:
    """What of the N boxes of a photo no longer counts, bool ``(N,)`` each."""

    without_class: Tensor
    without_box: Tensor
    ignored: Tensor


@dataclass
class _Item:
    """What is ranked: a box, or a photo with its boxes."""

    losses: tuple[float, float]
    boxes: list[tuple[int, int]] = field(default_factory=list)
    """Number of the photo, and of the box there."""


def split_by_loss(losses: Sequence[BoxLosses], labels: Sequence[Tensor], settings: LossSplitSettings) -> list[Split]:
    """The `Split` of each photo, from the losses and ``labels`` (N,) of its boxes.

    Of n boxes of a class, or of n photos with a box, the ``floor(share * n)`` with the highest loss are split off, so
    that one at least stays; of equals the first stay.
    """
    marks = [[torch.zeros(len(of_photo), dtype=torch.bool) for of_photo in labels] for _ in range(3)]
    rules = ((settings.class_share, (1, 0)), (settings.box_share, (0, 1)), (settings.teacher_share, (1, 1)))
    for group in _groups(losses, labels, settings.by):
        for of_rule, (share, factors) in zip(marks, rules, strict=True):
            sums = [sum(factor * loss for factor, loss in zip(factors, item.losses, strict=True)) for item in group]
            ranked = [group[index] for index in sorted(range(len(group)), key=sums.__getitem__)]
            num = int(share * len(group) + 1e-9)
            for item in ranked[len(group) - num :]:
                for photo, row in item.boxes:
                    of_rule[photo][row] = True
    return [Split(*of_photo) for of_photo in zip(*marks, strict=True)]


def _groups(losses: Sequence[BoxLosses], labels: Sequence[Tensor], by: Literal["boxes", "photos"]) -> list[list[_Item]]:
    """What is ranked together, in the order of the photos: the boxes of each class, or all photos."""
    groups: dict[int, list[_Item]] = {}
    for photo, (of_photo, of_boxes) in enumerate(zip(losses, labels, strict=True)):
        rows = (~of_photo.classes.isnan()).nonzero()[:, 0].tolist()
        pairs = [(float(of_photo.classes[row]), float(of_photo.extents[row])) for row in rows]
        if by == "boxes":
            for row, pair in zip(rows, pairs, strict=True):
                groups.setdefault(int(of_boxes[row]), []).append(_Item(pair, [(photo, row)]))
        elif rows:
            means = sum(pair[0] for pair in pairs) / len(rows), sum(pair[1] for pair in pairs) / len(rows)
            groups.setdefault(0, []).append(_Item(means, [(photo, row) for row in rows]))
    return [groups[key] for key in sorted(groups)]


@torch.no_grad()
def losses_of_boxes(model: GeneralizedRCNN, image: Tensor, boxes: Tensor, labels: Tensor) -> BoxLosses:
    """Losses of the ``boxes`` (N, 4) with ``labels`` (N,) from 1 on a photo ``(3, h, w)``; ``model`` is in eval mode.

    Each box has the mean over itself and the proposals whose nearest box it is, from an IoU of 0.5 on.
    """
    batch, _ = model.transform([image])
    features = model.backbone(batch.tensors)
    (proposals,), _ = model.rpn(batch, features)
    regions = torch.cat([proposals, boxes])
    heads = model.roi_heads
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, [regions], batch.image_sizes)))
    overlap, match = pairwise_iou(regions, boxes).max(dim=1)
    match[-len(boxes) :] = torch.arange(len(boxes), device=match.device)  # a box is its own, whatever lies on it
    overlap[-len(boxes) :] = 1
    chosen = overlap >= _OBJECT_IOU
    of_box, label = match[chosen], labels[match[chosen]]
    wanted = heads.box_coder.encode_single(boxes[of_box], regions[chosen])
    classes = F.cross_entropy(logits[chosen], label, reduction="none")
    extents = box_losses(deltas[chosen], label, wanted)
    counts = torch.bincount(of_box, minlength=len(boxes))
    means = [
        torch.zeros_like(counts, dtype=terms.dtype).index_add_(0, of_box, terms) / counts
        for terms in (classes, extents)
    ]
    return BoxLosses(means[0].float().cpu(), means[1].float().cpu())


def split_before_epoch(model: nn.Module, settings: LossSplitSettings, start: EpochStart) -> None:
    """From the epoch on at which the losses are due, let the boxes of ``start.photos`` count as the split says.

    The losses are measured once, by all processes together, and stand in `FILE`, so that a resumed training has the
    same; ``job.log`` tells how many boxes are split off. Raises `UserError` where the file is lost later on.
    """
    first = max(1, math.ceil(settings.start_share * start.num_epochs - 1e-9))
    if not settings.active or start.epoch < first:
        return
    assert isinstance(model, GeneralizedRCNN), "losses of boxes are those of torchvision's detectors"
    record = read_record(start.job.folder / FILE)
    if record is None and start.epoch > first:
        raise UserError(
            f"wanted the losses by which {start.job.label} was split in {start.job.folder / FILE}, found none or "
            f"damaged ones: delete {start.job.folder} and rerun, which trains it again"
        )
    if record is None:
        record = _measured(model, start)
    instances = start.photos.instances
    photos = zip(record["photos"], instances, strict=True)
    losses = [_from_values(of_photo, len(boxes)) for of_photo, boxes in photos]
    splits = split_by_loss(losses, [boxes.labels for boxes in instances], settings)
    weighed = [_weighed(boxes, split) for boxes, split in zip(instances, splits, strict=True)]
    if start.epoch == first:
        _log(start, instances, splits)
    start.photos.instances[:] = weighed


def _measured(model: GeneralizedRCNN, start: EpochStart) -> dict[str, Any]:
    """The losses of all boxes, photo by photo, as `_from_values` reads them; the first process writes `FILE`."""
    photos, group = start.photos, ranks()
    model.eval()
    own: dict[int, Any] = {}
    dtype = next(model.parameters()).dtype
    for number in range(group.rank, len(photos), group.size):
        boxes, rows = photos.instances[number], _teaching(photos.instances[number])
        values: list[list[float]] = [[], []]
        if len(rows):
            image = photos.plain_frame(number).read().to(start.device).to(dtype) / 255
            corners, labels = boxes.boxes[rows].to(start.device), boxes.labels[rows].to(start.device) + 1
            of_photo = losses_of_boxes(model, image, corners.to(dtype), labels)
            values = [of_photo.classes.tolist(), of_photo.extents.tolist()]
        own[number] = {"rows": rows.tolist(), "class": values[0], "box": values[1]}
    model.train()
    of_photos: dict[int, Any] = {}
    for of_rank in group.of_all(own):
        of_photos |= of_rank
    record = {"photos": [of_photos[number] for number in range(len(photos))]}
    if group.first:
        write_record(start.job.folder / FILE, record)
    return record


def _teaching(instances: Instances) -> Tensor:
    """Rows ``(K,)`` of the boxes that teach: at least a pixel wide and high, and not to be ignored."""
    sides = (instances.boxes[:, 2:] - instances.boxes[:, :2] >= 1).all(dim=1)
    return (sides if instances.crowd is None else sides & ~instances.crowd).nonzero()[:, 0]


def _from_values(values: Mapping[str, Any], num_boxes: int) -> BoxLosses:
    """The losses of a photo of so many boxes, as `_measured` keeps them."""
    losses = torch.full((2, num_boxes), torch.nan, dtype=torch.float64)
    losses[:, values["rows"]] = torch.tensor([values["class"], values["box"]], dtype=torch.float64)
    return BoxLosses(*losses)


def _weighed(instances: Instances, split: Split) -> Instances:
    """The instances of a photo as they count after the split."""
    crowd = split.ignored if instances.crowd is None else instances.crowd | split.ignored
    return instances.replace(
        class_weights=(~split.without_class).float(),
        box_weights=(~split.without_box).float(),
        crowd=crowd if bool(crowd.any()) else instances.crowd,
    )


def _log(start: EpochStart, instances: Sequence[Instances], splits: Sequence[Split]) -> None:
    """Log how many boxes are split off, and the classes that have none left to learn from."""
    if start.job.log is None or not ranks().first:
        return
    pairs = list(zip(instances, splits, strict=True))
    before = {label for boxes, _ in pairs for label in boxes.without_crowd().labels.tolist()}
    left = {
        label
        for boxes, split in pairs
        for label in boxes[~(split.ignored | split.without_class)].without_crowd().labels.tolist()
    }
    start.job.log.write(
        "split by loss",
        label=start.job.label,
        epoch=start.epoch + 1,
        boxes=sum(len(_teaching(boxes)) for boxes in instances),
        without_class=sum(int(split.without_class.sum()) for split in splits),
        without_box=sum(int(split.without_box.sum()) for split in splits),
        teacher_only=sum(int(split.ignored.sum()) for split in splits),
        classes_without_box=[start.job.classes[label] for label in sorted(before - left)],
    )
