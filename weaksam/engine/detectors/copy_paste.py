"""Paste objects that the segmenter cut out of training photos onto others, where their boxes are exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from weaksam.config import Settings
from weaksam.engine.detectors.frames import PhotoFrame
from weaksam.sam.box_masks import mask_quality
from weaksam.store.store import Store
from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks

_HIDDEN = 0.95
"""Covered share of a box from which on nothing of its object is seen."""
_DRAWS = 6
"""Random numbers of one pasted object: class, object, scale, mirror, place."""


class CopyPasteSettings(Settings):
    """How objects that the segmenter cut out of training photos are pasted onto others.

    Source: Ghiasi et al., Simple Copy-Paste, CVPR 2021; of pseudo masks CutLER (Wang et al., CVPR 2023). Ours: a class
    is pasted only where it is no tag, so that all of its objects there are known.
    """

    probability: float = Field(0.0, ge=0, le=1)
    """Share of the views of those photos that get objects; 0: none."""
    onto: Literal["auto", "untagged", "any"] = "auto"
    """Which photos: ``untagged`` ones, whose labels are then complete, or ``any``, which get objects of classes that
    are no tags of theirs. ``auto``: untagged where there are some, else any."""
    most_objects: int = Field(3, ge=1, le=50)
    """Objects of a view are one to so many."""
    smallest_scale: float = Field(0.5, ge=0.05, le=8)
    """A cut-out is resized by a factor between this ..."""
    largest_scale: float = Field(1.5, ge=0.05, le=8)
    """... and this, but ..."""
    smallest_side: int = Field(12, ge=2)
    """... no smaller than so many pixels along its longer side ..."""
    largest_share: float = Field(0.7, gt=0, le=1)
    """... and no larger than this share of the photo along any side."""
    min_quality: float = Field(0.6, ge=0, le=1)
    """Least quality of the masks that are cut out (predicted IoU times agreement with the box)."""
    border: float = Field(1.0, ge=0, le=20)
    """Pixels (standard deviation) over which a cut-out fades into the photo; 0: a hard border."""
    most_covered: float = Field(0.5, ge=0, lt=1)
    """A box of the photo of which more than this share is covered is ignored, and one that is hidden goes; less covered
    ones shrink to what is seen of them."""


@dataclass(frozen=True)
class CutOuts:
    """Objects of the training photos that may be pasted elsewhere."""

    fingerprint: str
    """Of the store of their masks."""
    objects: Mapping[str, Instances]
    """By image id, with masks, in pixels of the photo; a photo may have none."""

    @classmethod
    def of(cls, masks: Store, settings: CopyPasteSettings) -> CutOuts:
        """From a sealed store of `make_pseudo_masks`: masks of enough quality of objects that no border cuts."""
        objects = {}
        for row in masks.rows():
            photo = Instances(row["boxes"], row["labels"], masks=tuple(row["rles"]))
            good = mask_quality(row["predicted_iou"], row["box_agreement"]) >= settings.min_quality
            if "crowd" in row:
                good &= row["crowd"] == 0
            objects[row["image_id"]] = photo[good & _inside(photo)]
        return cls(masks.fingerprint, objects)

    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self.objects.values()))


def _inside(photo: Instances) -> Tensor:
    """Bool ``(N,)``: the objects whose box keeps a pixel from every border of the photo of their masks."""
    if not photo.masks:
        return torch.zeros(0, dtype=torch.bool)
    height, width = photo.masks[0]["size"]
    x1, y1, x2, y2 = photo.boxes.unbind(1)
    return (x1 >= 1) & (y1 >= 1) & (x2 <= width - 1) & (y2 <= height - 1)


@dataclass(frozen=True)
class PastedObject:
    """A cut-out at the size in which it is pasted."""

    pixels: Tensor
    """Float ``(3, h, w)`` in 0..255."""
    mask: Tensor
    """Bool ``(h, w)``; some pixel is True."""
    label: int
    corner: tuple[int, int]
    """Row and column of the photo at which its upper left pixel lies; all of it lies in the photo."""

    @property
    def box(self) -> Tensor:
        """Exact xyxy box ``(4,)`` of its mask in the photo."""
        top, left = self.corner
        return boxes_from_masks(self.mask) + torch.tensor([left, top, left, top], dtype=torch.float32)


def resized_cut_out(
    image: Tensor, mask: Tensor, label: int, draws: Tensor, size: tuple[int, int], settings: CopyPasteSettings
) -> PastedObject | None:
    """The object of ``mask`` (bool ``(H, W)``) in ``image`` (uint8 ``(3, H, W)``), to be pasted on a photo of ``size``.

    Four ``draws`` in [0, 1) say its scale, whether it is mirrored, and its row and column. None where its mask is empty
    or nothing of it is left at that size.
    """
    x1, y1, x2, y2 = boxes_from_masks(mask).int().tolist()
    if x2 <= x1 or y2 <= y1:
        return None
    scale, mirrored, down, across = draws.tolist()
    factor = settings.smallest_scale + scale * (settings.largest_scale - settings.smallest_scale)
    factor = max(factor, settings.smallest_side / max(x2 - x1, y2 - y1))
    factor = min(factor, settings.largest_share * size[0] / (y2 - y1), settings.largest_share * size[1] / (x2 - x1))
    height, width = max(1, round(factor * (y2 - y1))), max(1, round(factor * (x2 - x1)))
    parts = torch.cat([image[:, y1:y2, x1:x2].float(), 255.0 * mask[None, y1:y2, x1:x2].float()])
    parts = F.interpolate(parts[None], (height, width), mode="bilinear", antialias=True, align_corners=False)[0]
    parts = parts.flip(-1) if mirrored < 0.5 else parts
    seen = parts[3] >= 127.5
    if not bool(seen.any()):
        return None
    corner = int(down * (size[0] - height + 1)), int(across * (size[1] - width + 1))
    return PastedObject(parts[:3], seen, label, corner)


def pasted(image: Tensor, pasted_object: PastedObject, border: float) -> Tensor:
    """A new uint8 photo ``(3, H, W)`` with the object on ``image``, which fades over ``border`` pixels."""
    alpha = pasted_object.mask.float()
    if border > 0:
        reach = math.ceil(2 * border)
        padded = F.pad(alpha[None], [reach] * 4)
        blurred = TF.gaussian_blur(padded, [2 * reach + 1] * 2, [border] * 2)[0]
        alpha = blurred[reach:-reach, reach:-reach]
    (top, left), (height, width) = pasted_object.corner, alpha.shape
    result = image.clone()
    window = result[:, top : top + height, left : left + width]
    mixed = alpha * pasted_object.pixels + (1 - alpha) * window.float()
    window.copy_(mixed.round().clamp(0, 255).to(torch.uint8))
    return result


def uncovered(instances: Instances, mask: Tensor, most_covered: float) -> Instances:
    """What is left of ``instances`` on a photo where the pixels of ``mask`` (bool ``(H, W)``) are covered.

    A box shrinks to the least one that holds all its pixels that are seen. One of which more than ``most_covered`` is
    covered is marked ``crowd``, to be ignored; a hidden one goes. Boxes that are not covered stay to the bit.
    """
    boxes, kept = instances.boxes.clone(), torch.ones(len(instances), dtype=torch.bool)
    ignored = torch.zeros(len(instances), dtype=torch.bool) if instances.crowd is None else instances.crowd.clone()
    changed = False
    for row, (x1, y1, x2, y2) in enumerate(instances.boxes.tolist()):
        left, top = int(x1), int(y1)
        hidden = mask[top : math.ceil(y2), left : math.ceil(x2)]
        if hidden.numel() == 0 or not bool(hidden.any()):
            continue
        changed, share = True, float(hidden.float().mean())
        kept[row] = share < _HIDDEN
        ignored[row] |= share > most_covered
        seen = boxes_from_masks(~hidden) + torch.tensor([left, top, left, top])
        boxes[row, :2] = torch.maximum(boxes[row, :2], seen[:2])
        boxes[row, 2:] = torch.maximum(torch.minimum(boxes[row, 2:], seen[2:]), boxes[row, :2])
    if not changed:
        return instances
    crowd = ignored if bool(ignored.any()) else instances.crowd
    return instances.replace(boxes=boxes, crowd=crowd)[kept]


def with_pasted(
    frame: PhotoFrame,
    classes: Mapping[int, list[tuple[int, int]]],
    cut_out: Callable[[int, int], tuple[Tensor, Tensor]],
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> PhotoFrame:
    """``frame`` with objects of classes that are no tag of it, as ``generator`` draws them.

    ``classes``: of each label the cut-outs that there are, each a photo's number and its own; ``cut_out`` gives the
    pixels and the mask of one. The first draw says whether the photo gets any, the second how many. The tags stay as
    they are: of the pasted classes every object is known. The frame itself where no cut-out is of another class.
    """
    chance, number = torch.rand(2, generator=generator).tolist()
    draws = torch.rand(settings.most_objects, _DRAWS, generator=generator)
    labels = [label for label in sorted(classes) if classes[label] and not bool(frame.tags[label])]
    if chance >= settings.probability or not labels:
        return frame
    image, instances = frame.read(), frame.instances
    for of_object in draws[: 1 + int(number * settings.most_objects)]:
        label = labels[int(float(of_object[0]) * len(labels))]
        choices = classes[label]
        pixels, mask = cut_out(*choices[int(float(of_object[1]) * len(choices))])
        new = resized_cut_out(pixels, mask, label, of_object[2:], frame.size, settings)
        if new is None:
            continue
        image = pasted(image, new, settings.border)
        covering = torch.zeros(frame.size, dtype=torch.bool)
        (top, left), (height, width) = new.corner, new.mask.shape
        covering[top : top + height, left : left + width] = new.mask
        exact = Instances(new.box[None], torch.tensor([label]))
        instances = Instances.cat([uncovered(instances, covering, settings.most_covered), exact])
    return replace(frame, read=lambda: image, instances=instances)
