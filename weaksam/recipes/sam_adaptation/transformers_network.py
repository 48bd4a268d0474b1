"""Run the SAM families of transformers with gradients, as `networks` runs segment-anything's."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.recipes.sam_adaptation.networks import mask_logits
from weaksam.recipes.sam_adaptation.prompts import InstancePrompts
from weaksam.recipes.sam_adaptation.views import Fit
from weaksam.sam.transformers.segmenter import TransformersSam
from weaksam.structures.boxes import inclusive_from_xyxy


class AdaptableTransformers:
    """SAM, SAM-HQ, SAM 2 and their kin of transformers, which answer each prompt with their single mask.

    SAM-HQ answers with the one of three that it believes in most: its repair (`repair_sam_hq`) needs all three.
    """

    takes_masks = True

    def __init__(self, segmenter: TransformersSam, *, legacy: bool = False) -> None:
        self.segmenter = segmenter
        self.network: Any = segmenter.network.requires_grad_(False)
        self.side = segmenter.model.image_size
        self.fit: Fit = "padded" if segmenter.model.family.padded else "stretched"
        if legacy:
            self.fit = "centred"
        self._three = segmenter.model.family.name == "sam_hq"

    @property
    def encoder(self) -> nn.Module:
        """The vision encoder."""
        return self.network.vision_encoder  # type: ignore[no-any-return]

    def encode(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels ``(B, C, h, w)`` as the family has them, see `AdaptableNetwork`."""
        pixels = torch.stack([self._prepared(view) for view in views])
        # transformers computes embeddings without a gradient; what it wraps does not
        embedded = inspect.unwrap(type(self.network).get_image_embeddings)(self.network, pixels)
        return tuple(self.segmenter.levels(embedded))

    def _prepared(self, view: Tensor) -> Tensor:
        processor, device = self.segmenter.model.processor, self.segmenter.device
        pixels = view.to(device).float() / 255
        if self.fit != "centred":
            mean, std = (
                torch.tensor(numbers, device=device) for numbers in (processor.image_mean, processor.image_std)
            )
            pixels = (pixels - mean[:, None, None]) / std[:, None, None]
        return F.pad(pixels, (0, self.side - pixels.shape[2], 0, self.side - pixels.shape[1]))

    def embedding(self, features: tuple[Tensor, ...], row: int) -> Tensor:
        """The coarsest level, of which the decoder makes the masks, see `AdaptableNetwork`."""
        return features[0 if self._three else -1][row]

    def decode(self, features: tuple[Tensor, ...], row: int, prompts: InstancePrompts) -> tuple[Tensor, Tensor]:
        """See `AdaptableNetwork`."""
        device = features[0].device
        if len(prompts) == 0:  # which the network does not take
            return self._none(features)
        given: dict[str, Tensor] = {}
        num_photos = 1
        if prompts.points is not None and prompts.labels is not None:  # the network adds half a pixel itself
            given = {"input_points": (prompts.points - 0.5)[None], "input_labels": prompts.labels[None]}
        elif prompts.boxes is not None:  # a box is its two corner pixels
            given = {"input_boxes": inclusive_from_xyxy(prompts.boxes)[None]}
        elif prompts.masks is not None:  # a mask belongs to a photo: each gets the photo for itself
            side = 4 * self.network.prompt_encoder.image_embedding_size[0]
            given = {"input_masks": mask_logits(prompts.masks, side)[:, None]}
            num_photos = len(prompts)
        levels = tuple(level[row : row + 1].expand(num_photos, *level.shape[1:]) for level in features)
        answer = self.network(
            **self.segmenter.decoder_inputs(levels),
            **{name: value.to(device) for name, value in given.items()},
            multimask_output=self._three,
        )
        logits, iou = answer.pred_masks.flatten(0, 1), answer.iou_scores.flatten(0, 1)  # (n, 1 or 3, ...)
        best = iou.detach().argmax(dim=1)
        rows = torch.arange(len(best), device=device)
        return logits[rows, best], iou[rows, best]

    def _none(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The answer to no prompt."""
        side = 4 * self.network.prompt_encoder.image_embedding_size[0]
        return features[0].new_zeros(0, side, side), features[0].new_zeros(0)
