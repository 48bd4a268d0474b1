"""Run a segmenter's network with gradients: encode views, answer one prompt for each instance with one mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.recipes.sam_adaptation.prompts import InstancePrompts
from weaksam.sam.nano.model import BOX_LABELS, INPUT_SIZE, NanoSam, Pyramid
from weaksam.sam.nano.segmenter import MIN_SLOTS, SamNano
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.prompts import PADDING
from weaksam.sam.protocol import Segmenter


class AdaptableNetwork(Protocol):
    """A promptable network in parts: ``encoder`` is what is adapted; all of it is frozen but what `add_lora` adds."""

    network: nn.Module
    side: int
    """Side S of the square input in pixels."""

    @property
    def encoder(self) -> nn.Module:
        """The image encoder."""
        ...

    def encode(self, views: Sequence[Tensor]) -> Any:
        """Features of B views, uint8 ``(3, h, w)`` each with S pixels on its longer side."""
        ...

    def embedding(self, features: Any, row: int) -> Tensor:
        """The embedding ``(C, h, w)`` of view ``row``, on which prototypes are taken."""
        ...

    def decode(self, features: Any, row: int, prompts: InstancePrompts) -> tuple[Tensor, Tensor]:
        """Mask logits ``(n, S, S)`` of the prompts on view ``row``, and their predicted IoU ``(n,)``."""
        ...


def adaptable(segmenter: Segmenter) -> AdaptableNetwork:
    """The network of a segmenter; raises `UserError` for one that cannot be adapted."""
    if isinstance(segmenter, SamNano):
        return AdaptableNano(segmenter.model)
    if isinstance(segmenter, SegmentAnything):
        return AdaptableSam(segmenter.sam)
    raise UserError(
        f"wanted segment-anything's weights or sam_nano to adapt, found {segmenter.name}: set segmenter.weights to a "
        "sam_vit_b, sam_vit_l or sam_vit_h .pth file, or segmenter.family=nano"
    )


class AdaptableSam:
    """Meta's SAM, which answers each prompt with its single mask (``multimask_output=False``)."""

    def __init__(self, sam: Any) -> None:
        self.network = sam.eval().requires_grad_(False)
        self.side = int(sam.image_encoder.img_size)

    @property
    def encoder(self) -> nn.Module:
        """The ViT."""
        return self.network.image_encoder  # type: ignore[no-any-return]

    def encode(self, views: Sequence[Tensor]) -> Tensor:
        """``(B, C, g, g)``, see `AdaptableNetwork`."""
        return self.encoder(torch.stack([self._prepared(view) for view in views]))  # type: ignore[no-any-return]

    def _prepared(self, view: Tensor) -> Tensor:
        return self.network.preprocess(view.to(self.network.pixel_mean.device).float())  # type: ignore[no-any-return]

    def embedding(self, features: Tensor, row: int) -> Tensor:
        """See `AdaptableNetwork`."""
        return features[row]

    def decode(self, features: Tensor, row: int, prompts: InstancePrompts) -> tuple[Tensor, Tensor]:
        """See `AdaptableNetwork`."""
        device = features.device
        points = None
        if prompts.points is not None and prompts.labels is not None:
            points = (prompts.points.to(device), prompts.labels.to(device))
        boxes = None if prompts.boxes is None else prompts.boxes.to(device)
        sparse, dense = self.network.prompt_encoder(points=points, boxes=boxes, masks=None)
        logits, iou = self.network.mask_decoder(
            image_embeddings=features[row : row + 1],
            image_pe=self.network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return _enlarged(logits, self.side)[:, 0], iou[:, 0]


class AdaptableNano:
    """sam_nano, of whose three masks the one counts that it believes in most."""

    side = INPUT_SIZE

    def __init__(self, model: NanoSam) -> None:
        self.network: Any = model.eval().requires_grad_(False)

    @property
    def encoder(self) -> nn.Module:
        """The small pyramid."""
        return self.network.image_encoder  # type: ignore[no-any-return]

    def encode(self, views: Sequence[Tensor]) -> Pyramid:
        """Three levels, see `AdaptableNetwork`."""
        device = self.network.pixel_mean.device
        pixels = torch.stack([self.network.preprocess(view.to(device).float()) for view in views])
        return self.encoder(pixels)  # type: ignore[no-any-return]

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
        return _enlarged(logits[rows, best][:, None], self.side)[:, 0], iou[rows, best]


def _slots(prompts: InstancePrompts) -> tuple[Tensor, Tensor]:
    """Prompts as sam_nano's slots: ``coords (n, K, 2)`` and ``labels (n, K)``, K at least `MIN_SLOTS`."""
    if prompts.boxes is not None:
        coords = prompts.boxes.reshape(-1, 2, 2)
        labels = torch.tensor(BOX_LABELS).expand(len(prompts), 2)
    else:
        assert prompts.points is not None and prompts.labels is not None, "prompts have boxes or points"
        coords, labels = prompts.points, prompts.labels
    missing = max(0, MIN_SLOTS - coords.shape[1])
    return F.pad(coords, (0, 0, 0, missing)), F.pad(labels, (0, missing), value=PADDING)


def _enlarged(logits: Tensor, side: int) -> Tensor:
    """Logits ``(n, 1, g, g)`` on the input's pixels, bilinearly; n = 0 gives none."""
    if len(logits) == 0:
        return logits.new_zeros(0, 1, side, side)
    return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
