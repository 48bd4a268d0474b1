"""Propose regions as torchvision does, and send back gradients through the sampled anchors' cells alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from weaksam.models.backbones.clamping import RELU
from weaksam.models.backbones.products import linear
from weaksam.models.detectors.box_weights import weights_of_boxes
from weaksam.models.detectors.ignored_regions import IgnoringProposalNetwork
from weaksam.models.detectors.negatives import NegativeSettings, confident_regions, unknown_classes
from weaksam.models.ranks import ranks
from weaksam.structures.devices import numbers_on


class SampledProposals(IgnoringProposalNetwork):
    """Torchvision's region proposal network, whose training computes the sampled anchors a second time.

    Of some thousand anchors a photo only ``batch_size_per_image`` have a loss. So the head reads the whole maps without
    a gradient, for its proposals, and once more the 3x3 cells around the sampled anchors, with one: losses and
    gradients are the same to rounding, and the backward pass of the head costs a few per cent.
    """

    negatives = NegativeSettings()
    """What anchors without a box teach."""
    confident: float | None = None
    """The objectness above which anchors and proposals are no background; the training sets this before each step."""

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals ``(R, 4)`` of each photo, and in training the losses ``loss_objectness``, ``loss_rpn_box_reg``.

        The heads, which read the same targets, find the confident proposals there, ``confident_boxes`` (R, 4), nan for
        the others. Proposals that a target gives, ``given_boxes`` (P, 4), stand behind the network's own. Losses of
        anchors with a box count by its ``class_weights`` and ``box_weights``, where targets have some.
        """
        maps = list(features.values())
        with torch.no_grad():
            proposals, scores, anchors, objectness_of_all = self._propose(images, maps)
        if not self.training:
            return proposals, {}
        assert targets is not None, "training wants targets"
        labels, matched = self.assign_targets_to_anchors(anchors, targets)
        labels = self._known_labels(labels, anchors, objectness_of_all, targets)
        if self.confident is not None:
            for target, boxes, of_photo in zip(targets, proposals, scores, strict=True):
                kept = confident_regions(boxes, of_photo, target, self.confident, self.negatives)
                target["confident_boxes"] = boxes.masked_fill(~kept[:, None], torch.nan)  # picking them would wait
        proposals = [
            torch.cat([boxes, target["given_boxes"]]) if "given_boxes" in target else boxes
            for boxes, target in zip(proposals, targets, strict=True)
        ]
        return proposals, self._sampled_losses(maps, labels, anchors, matched, targets)

    def _sampled_losses(
        self,
        maps: list[Tensor],
        labels: list[Tensor],
        anchors: list[Tensor],
        matched: list[Tensor],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """The losses of the anchors that are sampled by their ``labels`` (A,); ``matched`` (A, 4) are their boxes."""
        masks = self.fg_bg_sampler(labels)
        chosen = [torch.where(torch.cat(of_photos))[0] for of_photos in masks]
        num_positive, sampled = len(chosen[0]), torch.cat(chosen)
        objectness, deltas = self._predict(maps, sampled)
        num_sampled = max(1, ranks().total(len(sampled)))  # of the whole batch; 0: every anchor is ignored
        wanted = self.box_coder.encode_single(torch.cat(matched)[chosen[0]], torch.cat(anchors)[chosen[0]])
        positive = [boxes[mask.bool()] for boxes, mask in zip(matched, masks[0], strict=True)]
        box_weights = weights_of_boxes("box_weights", positive, targets)
        class_weights = weights_of_boxes("class_weights", positive, targets)
        if class_weights is not None:
            class_weights = torch.cat([class_weights, class_weights.new_ones(len(sampled) - num_positive)])
        if box_weights is None:
            box_loss = F.smooth_l1_loss(deltas[:num_positive], wanted, beta=1 / 9, reduction="sum")
        else:
            of_anchors = F.smooth_l1_loss(deltas[:num_positive], wanted, beta=1 / 9, reduction="none")
            box_loss = (of_anchors * box_weights[:, None]).sum()
        objectness_loss = F.binary_cross_entropy_with_logits(
            objectness, torch.cat(labels)[sampled].to(objectness), class_weights, reduction="sum"
        )
        return {"loss_objectness": objectness_loss / num_sampled, "loss_rpn_box_reg": box_loss / num_sampled}

    def _known_labels(
        self,
        labels: Sequence[Tensor],
        anchors: Sequence[Tensor],
        objectness: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> list[Tensor]:
        """Each photo's ``labels`` (A,) of its anchors, -1 for background of which some class is unknown."""
        if self.confident is None and self.negatives.rule == "all":
            return list(labels)
        known = []
        for of_photo, boxes, scores, target in zip(labels, anchors, objectness, targets, strict=True):
            doubtful = confident_regions(boxes, scores, target, self.confident, self.negatives)
            if self.negatives.anchors and self.negatives.rule != "all":
                doubtful |= unknown_classes(boxes, target, self.negatives).any(dim=1)
            known.append(of_photo.masked_fill(doubtful & (of_photo == 0), -1))
        return known

    def _propose(
        self, images: ImageList, maps: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Sequence[Tensor]]:
        """Proposals, their objectness, anchors and the anchors' objectness of each photo, as torchvision has them."""
        objectness, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        num_per_level = [scores.shape[1] * scores.shape[2] * scores.shape[3] for scores in objectness]
        flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = self.box_coder.decode(flat_deltas, anchors).view(len(anchors), -1, 4)
        proposals, scores = self.filter_proposals(boxes, flat_objectness, images.image_sizes, num_per_level)
        return proposals, scores, anchors, flat_objectness.sigmoid().view(len(anchors), -1).unbind()

    def _predict(self, maps: Sequence[Tensor], sampled: Tensor) -> tuple[Tensor, Tensor]:
        """Objectness ``(S,)`` and deltas ``(S, 4)`` of the anchors of these numbers, counted over all photos."""
        num_anchors = self.head.cls_logits.out_channels
        (block,) = self.head.conv  # the 3x3 convolution and its activation
        weight = block[0].weight.permute(0, 2, 3, 1).flatten(1)
        hidden = linear(neighbourhoods(maps, sampled // num_anchors), weight, block[0].bias, RELU)
        every = torch.arange(len(sampled), device=sampled.device)
        which = sampled % num_anchors
        objectness = linear(hidden, self.head.cls_logits.weight.flatten(1), self.head.cls_logits.bias)
        deltas = linear(hidden, self.head.bbox_pred.weight.flatten(1), self.head.bbox_pred.bias)
        return objectness[every, which], deltas.unflatten(1, (num_anchors, 4))[every, which]


def neighbourhoods(maps: Sequence[Tensor], cells: Tensor) -> Tensor:
    """Rows ``(S, 9 * C)``: the 3x3 cells around each of ``cells`` (S,), row by row, zeros outside its map.

    ``maps`` (B, C, h, w) are the levels of a pyramid; cells are counted photo by photo, within one level by level, row
    by row.
    """
    batch, channels = maps[0].shape[:2]
    table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in maps])
    table = torch.cat([table, table.new_zeros(1, channels)])
    sizes = numbers_on(cells.device, [level.shape[2:] for level in maps], torch.int64)  # (levels, 2)
    ends = sizes.prod(dim=1).cumsum(0)
    photo, place = cells // ends[-1], cells % ends[-1]
    level = torch.bucketize(place, ends, right=True)
    begins = ends - sizes.prod(dim=1)
    height, width = sizes[level].unbind(1)
    row, column = (place - begins[level]) // width, (place - begins[level]) % width
    step = torch.arange(-1, 2, device=cells.device)
    rows, columns = row[:, None, None] + step[:, None], column[:, None, None] + step  # (S, 3, 1), (S, 1, 3)
    inside = (rows >= 0) & (rows < height[:, None, None]) & (columns >= 0) & (columns < width[:, None, None])
    first = batch * begins[level] + photo * height * width  # of the photo's map in the table
    index = (first[:, None, None] + rows * width[:, None, None] + columns).masked_fill(~inside, len(table) - 1)
    return F.embedding(index.flatten(1), table, padding_idx=len(table) - 1).flatten(1)
