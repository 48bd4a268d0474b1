"""Paste objects that are cut out of training photos by their masks onto others, where their boxes are exact."""

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

from weaksam.config import Settings, fingerprint_of
from weaksam.data.detection_stores import instances_key
from weaksam.engine.detectors.frames import PhotoFrame
from weaksam.engine.seeds import derive_seed
from weaksam.sam.box_masks import mask_quality
from weaksam.store.store import Store
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks
from weaksam.structures.proposals import Proposals

_HIDDEN = 0.95
"""Covered share of a box from which on nothing of its object is seen."""
_DRAWS = 6
"""Random numbers of one pasted object: class, object, scale, mirror, place."""


class CopyPasteSettings(Settings):
    """How objects that are cut out of training photos by their masks are pasted onto others.

    Source: Ghiasi et al., Simple Copy-Paste, CVPR 2021; of pseudo masks CutLER (Wang et al., CVPR 2023). Ours: a class
    is pasted only where it is no tag, so that all of its objects there are known.
    """

    probability: float = Field(0.5, ge=0, le=1)
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
    masks: Literal["proposals", "segmenter"] = "proposals"
    """Whose masks are cut out: those of the proposals that agree best with the pseudo boxes, which are there already,
    or what the segmenter answers to the boxes."""
    min_quality: float = Field(0.6, ge=0, le=1)
    """Least quality of the masks that are cut out (predicted IoU times agreement with the box)."""
    most_cut_outs: int = Field(5000, ge=1)
    """Of more believed boxes than this, objects are cut out of photos drawn by the seed that hold so many."""
    border: float = Field(1.0, ge=0, le=20)
    """Pixels (standard deviation) over which a cut-out fades into the photo; 0: a hard border."""
    most_covered: float = Field(0.5, ge=0, lt=1)
    """A box of the photo of which more than this share is covered is ignored, and one that is hidden goes; less covered
    ones shrink to what is seen of them."""


NO_COPY_PASTE = CopyPasteSettings(probability=0)
"""Settings by which no photo gets objects of others."""


@dataclass(frozen=True)
class CutOuts:
    """Objects of the training photos that may be pasted elsewhere."""

    fingerprint: str
    """Of the store of their masks, and of the boxes that chose among them."""
    objects: Mapping[str, Instances]
    """By image id, with masks, in pixels of the photo; a photo may have none."""

    @classmethod
    def of_masks(cls, masks: Store, sizes: Mapping[str, tuple[int, int]], settings: CopyPasteSettings) -> CutOuts:
        """From a sealed store of `make_pseudo_masks`: masks of enough quality of objects that no border cuts.

        ``sizes``: ``(H, W)`` of the photos by image id.
        """
        objects = {}
        for row in masks.rows():
            photo = Instances(row["boxes"], row["labels"], masks=tuple(row["rles"]))
            good = mask_quality(row["predicted_iou"], row["box_agreement"]) >= settings.min_quality
            if "crowd" in row:
                good &= row["crowd"] == 0
            objects[row["image_id"]] = photo[good & _inside(photo.boxes, sizes[row["image_id"]])]
        return cls(masks.fingerprint, objects)

    @classmethod
    def of_proposals(
        cls,
        proposals: Store,
        pseudo_gt: Mapping[str, Instances],
        sizes: Mapping[str, tuple[int, int]],
        settings: CopyPasteSettings,
    ) -> CutOuts:
        """From a sealed store of proposals: of each box of ``pseudo_gt`` the mask that agrees with it best.

        That is the one of the greatest score times IoU with the box. Boxes without one of enough quality, and those
        that a border of the photo cuts, give none, as do proposals without masks.
        """
        objects = {}
        for image_id in proposals.image_ids:  # in the order of their parts
            boxes = pseudo_gt.get(image_id, Instances.empty())
            if len(boxes) == 0:
                continue
            of_photo = Proposals.from_row(proposals[image_id])
            if len(of_photo) == 0 or not of_photo.has_masks:
                continue
            quality, best = mask_quality(of_photo.scores, pairwise_iou(boxes.boxes, of_photo.boxes)).max(dim=1)
            whole = Instances(boxes.boxes, boxes.labels, masks=tuple(of_photo.rles[number] for number in best.tolist()))
            objects[image_id] = whole[(quality >= settings.min_quality) & _inside(boxes.boxes, sizes[image_id])]
        return cls(fingerprint_of({"proposals": proposals.fingerprint, "boxes": instances_key(pseudo_gt)}), objects)

    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self.objects.values()))


def photos_to_cut(pseudo_gt: Mapping[str, Instances], most: int, seed: int) -> dict[str, Instances]:
    """The photos of ``pseudo_gt`` that objects are cut out of: all, in their order, up to ``most`` boxes.

    Of more boxes, photos are drawn by ``seed`` until they hold ``most`` or just over.
    """
    if sum(map(len, pseudo_gt.values())) <= most:
        return dict(pseudo_gt)
    names = sorted(pseudo_gt)
    generator = torch.Generator().manual_seed(derive_seed(seed, "cut-outs"))
    drawn: set[str] = set()
    num = 0
    for row in torch.randperm(len(names), generator=generator).tolist():
        if num >= most:
            break
        drawn.add(names[row])
        num += len(pseudo_gt[names[row]])
    return {image_id: boxes for image_id, boxes in pseudo_gt.items() if image_id in drawn}


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool ``(N,)``: the ``boxes (N, 4)`` that keep a pixel from every border of a photo of ``size`` (H, W)."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return (x1 >= 1) & (y1 >= 1) & (x2 <= size[1] - 1) & (y2 <= size[0] - 1)


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
