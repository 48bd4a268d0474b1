"""Run a segmenter's network with gradients: encode views, answer one prompt for each instance with one mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.recipes.sam_adaptation.prompts import InstancePrompts
from weaksam.recipes.sam_adaptation.views import Fit
from weaksam.sam.nano.model import BOX_LABELS, INPUT_SIZE, NanoSam, Pyramid
from weaksam.sam.nano.segmenter import MIN_SLOTS
from weaksam.sam.prompts import PADDING
from weaksam.structures.boxes import inclusive_from_xyxy

MASK_PROMPT = 8.0
"""Logit of a pixel inside a mask that prompts, and its negative outside (ours: SAM was trained on its own logits)."""


class AdaptableNetwork(Protocol):
    """A promptable network in parts: ``encoder`` is what is adapted; all of it is frozen but what `add_lora` adds."""

    network: nn.Module
    side: int
    """Side S of the square input in pixels."""
    fit: Fit
    """How a photo fills it."""
    takes_masks: bool
    """Whether a mask can prompt it."""

    @property
    def encoder(self) -> nn.Module:
        """The image encoder."""
        ...

    def encode(self, views: Sequence[Tensor]) -> Any:
        """Features of B views, uint8 ``(3, h, w)`` each, as `network_view` makes them for ``side`` and ``fit``."""
        ...

    def embedding(self, features: Any, row: int) -> Tensor:
        """The embedding ``(C, h, w)`` of view ``row``, on which prototypes are taken."""
        ...

    def decode(self, features: Any, row: int, prompts: InstancePrompts) -> tuple[Tensor, Tensor]:
        """Low-resolution mask logits ``(n, g, g)`` of the prompts on view ``row``, and their predicted IoU ``(n,)``."""
        ...


class AdaptableSam:
    """Meta's SAM, which answers each prompt with its single mask (``multimask_output=False``)."""

    takes_masks = True

    def __init__(self, sam: Any, *, legacy: bool = False) -> None:
        self.network = sam.eval().requires_grad_(False)
        self.side = int(sam.image_encoder.img_size)
        self.fit: Fit = "centred" if legacy else "padded"

    @property
    def encoder(self) -> nn.Module:
        """The ViT."""
        return self.network.image_encoder  # type: ignore[no-any-return]

    def encode(self, views: Sequence[Tensor]) -> Tensor:
        """``(B, C, g, g)``, see `AdaptableNetwork`."""
        return self.encoder(_prepared(self.network, views, self.fit))  # type: ignore[no-any-return]

    def embedding(self, features: Tensor, row: int) -> Tensor:
        """See `AdaptableNetwork`."""
        return features[row]

    def decode(self, features: Tensor, row: int, prompts: InstancePrompts) -> tuple[Tensor, Tensor]:
        """See `AdaptableNetwork`."""
        device, encoder = features.device, self.network.prompt_encoder
        points = boxes = masks = None
        if prompts.points is not None and prompts.labels is not None:  # SAM adds half a pixel itself
            points = ((prompts.points - 0.5).to(device), prompts.labels.to(device))
        if prompts.boxes is not None:  # a box is its two corner pixels
            boxes = inclusive_from_xyxy(prompts.boxes).to(device)
        if prompts.masks is not None:
            masks = mask_logits(prompts.masks.to(device), encoder.mask_input_size[0])[:, None]
        sparse, dense = encoder(points=points, boxes=boxes, masks=masks)
        logits, iou = self.network.mask_decoder(
            image_embeddings=features[row : row + 1],
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return logits[:, 0], iou[:, 0]


class AdaptableNano:
    """sam_nano, of whose three masks the one counts that it believes in most."""

    side = INPUT_SIZE
    takes_masks = False

    def __init__(self, model: NanoSam, *, legacy: bool = False) -> None:
        self.network: Any = model.eval().requires_grad_(False)
        self.fit: Fit = "centred" if legacy else "padded"

    @property
    def encoder(self) -> nn.Module:
        """The small pyramid."""
        return self.network.image_encoder  # type: ignore[no-any-return]

    def encode(self, views: Sequence[Tensor]) -> Pyramid:
        """Three levels, see `AdaptableNetwork`."""
        return self.encoder(_prepared(self.network, views, self.fit))  # type: ignore[no-any-return]

    def embedding(self, features: Pyramid, row: int) -> Tensor:
        """The level of stride 16, see `AdaptableNetwork`."""
        return features.s16[row]

    def decode(self, features: Pyramid, row: int, prompts: InstancePrompts) -> tuple[Tensor, Tensor]:
        """See `AdaptableNetwork`."""
        coords, labels = _slots(prompts)
        device = features.s16.device
        index = torch.full((len(prompts),), row, device=device)
        logits, iou = self.network.prompted(features, index, coords.to(device), labels.to(device))
        best = iou.detach().argmax(dim=1)
        rows = torch.arange(len(best), device=device)
        return logits[rows, best], iou[rows, best]


def _prepared(sam: Any, views: Sequence[Tensor], fit: Fit) -> Tensor:
    """Views ``(B, 3, S, S)`` as the encoder of a network of segment-anything's kind takes them."""
    pixels = [view.to(sam.pixel_mean.device).float() for view in views]
    if fit == "centred":  # WeSAM's code: numbers from 0 to 1
        return torch.stack(pixels) / 255
    return torch.stack([sam.preprocess(view) for view in pixels])


def _slots(prompts: InstancePrompts) -> tuple[Tensor, Tensor]:
    """Prompts as sam_nano's slots: ``coords (n, K, 2)`` and ``labels (n, K)``, K at least `MIN_SLOTS`."""
    if prompts.boxes is not None:
        coords = prompts.boxes.reshape(-1, 2, 2)
        labels = torch.tensor(BOX_LABELS).expand(len(prompts), 2)
    else:
        assert prompts.points is not None and prompts.labels is not None, "sam_nano takes boxes and points alone"
        coords, labels = prompts.points, prompts.labels
    missing = max(0, MIN_SLOTS - coords.shape[1])
    return F.pad(coords, (0, 0, 0, missing)), F.pad(labels, (0, missing), value=PADDING)


def mask_logits(masks: Tensor, side: int) -> Tensor:
    """Bool masks ``(n, S, S)`` as a network's mask prompts ``(n, side, side)``: `MASK_PROMPT` inside, minus it outside.

    A cell that lies partly inside is in between.
    """
    if len(masks) == 0:
        return torch.zeros(0, side, side, device=masks.device)
    shares = F.interpolate(masks[:, None].float(), size=(side, side), mode="area")[:, 0]
    return (2 * shares - 1) * MASK_PROMPT


def enlarged(logits: Tensor, side: int) -> Tensor:
    """Low-resolution logits ``(n, g, g)`` on the input's pixels ``(n, side, side)``, bilinearly; n = 0 gives none."""
    if len(logits) == 0:
        return logits.new_zeros(0, side, side)
    return F.interpolate(logits[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]
