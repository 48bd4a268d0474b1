"""Define what a promptable segmenter offers: encode a photo once, then answer each prompt with three masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from weaksam.sam.prompts import Prompts
from weaksam.structures.boxes import scale
from weaksam.structures.mask_resizing import full_masks
from weaksam.structures.masks import boxes_from_masks

NUM_MASKS = 3
EncoderPrecision = Literal["float32", "bfloat16"]
"""Arithmetic of an image encoder; prompts are always decoded in float32."""


@dataclass(frozen=True)
class Embedding:
    """What a segmenter remembers of one photo; opaque to everybody else, who may only read ``size``.

    ``size`` is ``(H, W)`` of the original photo in pixels. Each segmenter adds its own fields in a subclass.
    """

    size: tuple[int, int]


@dataclass(frozen=True)
class Masks:
    """The answer to P prompts: three masks each, small to large ("sub-part, part, whole").

    ``masks``: bool ``(P, 3, h, w)`` in the segmenter's working frame, which covers the whole photo without padding.
    ``iou``: ``(P, 3)`` predicted IoU; ``stability``: ``(P, 3)`` in [0, 1]; ``boxes``: float32 ``(P, 3, 4)`` half-open
    xyxy in pixels of the original photo, zeros where the mask is empty; ``size``: ``(H, W)`` of the original photo.
    P = 0 gives empty tensors of these shapes. The numbers are on the CPU; the masks stay where they were computed, for
    most of them are dropped unseen.
    """

    masks: Tensor
    iou: Tensor
    stability: Tensor
    boxes: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.masks)

    def full(self, p_index: Tensor, k_index: Tensor) -> Tensor:
        """Masks ``k_index (N,)`` of prompts ``p_index (N,)`` in the original photo's frame: bool ``(N, H, W)``."""
        return full_masks(self.masks[p_index, k_index], self.size)


@runtime_checkable
class MaskPrompting(Protocol):
    """An answer (`Masks`) whose masks can prompt the same segmenter again, as SAM's can."""

    def as_prompts(self, p_index: Tensor, k_index: Tensor) -> Tensor:
        """Masks ``k_index (N,)`` of prompts ``p_index (N,)`` as logits ``(N, g, g)``, see ``Prompts.mask_logits``."""
        ...


@dataclass(frozen=True)
class ListedRegions:
    """N regions of one photo, best first: what a segmenter finds without being prompted.

    ``masks``: bool ``(N, h, w)`` in the working frame; ``boxes``: float32 ``(N, 4)`` half-open xyxy in photo pixels;
    ``scores`` and ``stability``: ``(N,)`` in [0, 1]; ``size``: ``(H, W)`` of the photo.
    """

    masks: Tensor
    boxes: Tensor
    scores: Tensor
    stability: Tensor
    size: tuple[int, int]


@runtime_checkable
class Segmenter(Protocol):
    """A frozen promptable segmenter.

    ``name`` is for reports; ``fingerprint`` (hex) changes whenever another answer may come out (family, weights,
    settings), never with the device.
    """

    @property
    def name(self) -> str:
        """Family and variant in one word, for reports."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of all that decides the answers."""
        ...

    def encode(self, image: np.ndarray) -> Embedding:
        """Embed one upright RGB photo, uint8 ``(H, W, 3)``; done once per photo."""
        ...

    def predict(self, embedding: Embedding, prompts: Prompts, *, min_pred_iou: float | None = None) -> Masks:
        """Answer P prompts; P = 0 is answered with empty tensors.

        Masks among the prompts are only given to a segmenter whose answers are `MaskPrompting`; others ignore them.

        Masks whose predicted IoU is not above ``min_pred_iou`` may be answered empty, since the caller drops them
        anyway: most of a decoder's time goes into drawing them.
        """
        ...


@runtime_checkable
class RegionLister(Protocol):
    """A segmenter that can list the regions of a photo itself, where others need a grid of prompts."""

    def regions(self, embedding: Embedding, num: int) -> ListedRegions:
        """At most ``num`` regions of the photo, best first; the same in any run."""
        ...


def boxes_in_photo(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Half-open photo-pixel xyxy ``(..., 4)`` of bool masks ``(..., h, w)`` in a working frame; zeros if empty."""
    height, width = size
    h, w = masks.shape[-2:]
    boxes = boxes_from_masks(masks)
    return scale(boxes.reshape(-1, 4), width / w, height / h).reshape(boxes.shape)
