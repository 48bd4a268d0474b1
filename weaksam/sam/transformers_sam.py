"""SAM, SAM-HQ, SAM 2, EdgeTAM and SAM 3's tracker, as transformers maintains them, behind the segmenter protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.config import fingerprint_of
from weaksam.sam.hf_files import find_model
from weaksam.sam.hf_models import HfModel, load_model
from weaksam.sam.protocol import NUM_MASKS, Embedding, Masks, check_prompts
from weaksam.structures.boxes import inclusive_from_xyxy
from weaksam.structures.masks import boxes_from_masks

Precision = Literal["float32", "bfloat16"]

PROMPTS_AT_ONCE = 16
PIXELS_AT_ONCE = 2**23  # of masks enlarged to the photo's size: 32 MiB of logits
STABILITY_OFFSET = 1.0  # logits, as in SAM's automatic mask generator
EMPTY_LOGIT = -32.0  # of masks that nobody will look at


@dataclass(frozen=True)
class Frame:
    """How a photo lies in the network's input, and how a mask gets back from there.

    ``size``: (H, W) of the photo; ``input_size``: (h, w) that it takes of the square input of side ``image_size``, all
    of it where photos are stretched; ``padded`` says which of the two ways. ``mask_side``: pixels a side of the square
    logits.
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    image_size: int
    mask_side: int
    padded: bool

    @property
    def mask_size(self) -> tuple[int, int]:
        """The part (h, w) of the square logits that is photo."""
        h, w = (max(1, round(length * self.mask_side / self.image_size)) for length in self.input_size)
        return h, w

    def to_input(self, xy: Tensor) -> Tensor:
        """Photo pixels ``(..., 2)`` as pixels of the input."""
        (height, width), (h, w) = self.size, self.input_size
        return torch.stack([xy[..., 0] * (w / width), xy[..., 1] * (h / height)], -1)

    def to_photo(self, logits: Tensor) -> Tensor:
        """Square logits ``(N, g, g)`` enlarged to the photo ``(N, H, W)``, as the family's image processor does."""
        fine = logits[:, None]
        if self.padded:
            fine = F.interpolate(fine, (self.image_size, self.image_size), mode="bilinear", align_corners=False)
            fine = fine[..., : self.input_size[0], : self.input_size[1]]
        return F.interpolate(fine, self.size, mode="bilinear", align_corners=False)[:, 0]

    @property
    def masks_at_once(self) -> int:
        """How many masks to enlarge together."""
        return max(1, PIXELS_AT_ONCE // max(self.size[0] * self.size[1], self.image_size**2))


@dataclass(frozen=True)
class HfEmbedding(Embedding):
    """Image features ``(1, C, h, w)`` of one photo, one level or several as the family has them, and its frame."""

    features: tuple[Tensor, ...]
    frame: Frame


@dataclass(frozen=True)
class HfMasks(Masks):
    """``Masks`` that keep the square logits ``(P, 3, g, g)``, so that ``full`` enlarges them as transformers does."""

    logits: Tensor
    frame: Frame

    def full(self, p_index: Tensor, k_index: Tensor) -> Tensor:
        """Masks ``k_index (N,)`` of prompts ``p_index (N,)`` in the photo's frame: bool ``(N, H, W)``."""
        chosen = self.logits[p_index, k_index]
        if len(chosen) == 0:
            return torch.zeros((0, *self.size), dtype=torch.bool)
        return torch.cat([self.frame.to_photo(part) > 0 for part in chosen.split(self.frame.masks_at_once)])


class TransformersSam:
    """A frozen promptable model of transformers: encodes a photo once, answers prompts with three masks each.

    Masks are in the frame of the low-resolution logits without padding (256 pixels a side for most families); boxes
    and stability are measured on them enlarged to the photo. ``precision`` is that of the image encoder, which is most
    of the work of a prompt or a few; prompts are always decoded in float32.
    """

    def __init__(self, model: HfModel, device: torch.device, precision: Precision = "float32") -> None:
        self.network: Any = model.network.to(device)
        self.device = device
        self.model = model
        self.precision = precision
        self.name = model.name
        self.fingerprint = fingerprint_of({"model": model.fingerprint, "precision": precision})

    @classmethod
    def load(cls, weights: Path, device: torch.device, precision: Precision = "float32") -> TransformersSam:
        """Read the model in the folder ``weights``, or with that id (``owner/name``) on the hub.

        Raises:
            UserError: there is no such model, it cannot be fetched, is of no family that answers points and boxes,
                or a file is broken or belongs to another variant.
        """
        return cls(load_model(find_model(weights)), device, precision)

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> HfEmbedding:
        """Embed one upright RGB photo, uint8 ``(H, W, 3)``."""
        made = self.model.processor(images=image, input_data_format="channels_last", return_tensors="pt")
        pixels = made["pixel_values"].to(self.device, torch.float32)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            embedded = self.network.get_image_embeddings(pixels)
        covered = made["reshaped_input_sizes"][0] if self.model.family.padded else pixels.shape[-2:]
        frame = Frame(
            size=(image.shape[0], image.shape[1]),
            input_size=(int(covered[0]), int(covered[1])),
            image_size=self.model.image_size,
            mask_side=4 * self.network.prompt_encoder.image_embedding_size[0],
            padded=self.model.family.padded,
        )
        return HfEmbedding(frame.size, tuple(level.float() for level in self._levels(embedded)), frame)

    def _levels(self, embedded: Any) -> list[Tensor]:
        """The tensors that the decoder needs of what the image encoder gave."""
        if self.model.family.name == "sam_hq":
            return [embedded[0], embedded[1][0]]  # of the encoder's blocks, it uses the first global one
        return [embedded] if isinstance(embedded, Tensor) else list(embedded)

    def _decoder_inputs(self, features: tuple[Tensor, ...]) -> dict[str, Any]:
        """The same as arguments of the network."""
        if self.model.family.name == "sam":
            return {"image_embeddings": features[0]}
        if self.model.family.name == "sam_hq":
            return {"image_embeddings": features[0], "intermediate_embeddings": [features[1]]}
        return {"image_embeddings": list(features)}

    @torch.inference_mode()
    def predict(
        self,
        embedding: Embedding,
        *,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        min_pred_iou: float | None = None,
    ) -> HfMasks:
        """Three masks per prompt, see ``Segmenter.predict``; results are on the CPU."""
        assert isinstance(embedding, HfEmbedding), "predict needs what this segmenter's encode returned"
        num, frame = check_prompts(points, point_labels, boxes), embedding.frame
        prompts: dict[str, Tensor] = {}
        if points is not None:
            labels = torch.ones(points.shape[:2]) if point_labels is None else point_labels
            prompts["input_points"] = frame.to_input(points.float()).to(self.device)
            prompts["input_labels"] = labels.long().to(self.device)
        if boxes is not None:  # a box is its two corner pixels
            corners = inclusive_from_xyxy(boxes.float()).reshape(-1, 2, 2)
            prompts["input_boxes"] = frame.to_input(corners).reshape(-1, 4).to(self.device)
        parts = [_nothing(frame)]
        for start in range(0, num, PROMPTS_AT_ONCE):
            part = {name: rows[None, start : start + PROMPTS_AT_ONCE] for name, rows in prompts.items()}
            parts.append(self._answer(embedding, part, min_pred_iou))
        logits, iou, stability, found = (torch.cat(column) for column in zip(*parts, strict=True))
        h, w = frame.mask_size
        return HfMasks(logits[..., :h, :w] > 0, iou, stability, found, frame.size, logits, frame)

    def _answer(
        self, embedding: HfEmbedding, prompts: Mapping[str, Tensor], min_pred_iou: float | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits ``(P, 3, g, g)``, predicted IoU, stability ``(P, 3)`` and boxes ``(P, 3, 4)`` of one small batch."""
        answer = self.network(**self._decoder_inputs(embedding.features), **prompts, multimask_output=True)
        logits, iou = answer.pred_masks[0].float(), answer.iou_scores[0].float()
        wanted = torch.ones_like(iou, dtype=torch.bool) if min_pred_iou is None else iou > min_pred_iou
        logits = torch.where(wanted[..., None, None], logits, EMPTY_LOGIT)
        boxes, stability = iou.new_zeros(*iou.shape, 4), torch.zeros_like(iou)
        boxes[wanted], stability[wanted] = measure(logits[wanted], embedding.frame)
        return logits.cpu(), iou.cpu(), stability.cpu(), boxes.cpu()


def measure(logits: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """Half-open boxes ``(N, 4)`` and stability ``(N,)`` of square logits ``(N, g, g)`` in the photo's own pixels.

    Stability is SAM's: the area above +1 over the area above -1. Zeros for an empty mask, and ``(0, 4)``, ``(0,)``
    for N = 0.
    """
    boxes, stability = [logits.new_zeros(0, 4)], [logits.new_zeros(0)]
    for part in logits.split(frame.masks_at_once) if len(logits) else ():
        fine = frame.to_photo(part)
        boxes.append(boxes_from_masks(fine > 0))
        inner = (fine > STABILITY_OFFSET).sum((1, 2))
        stability.append(inner / (fine > -STABILITY_OFFSET).sum((1, 2)).clamp(min=1))
    return torch.cat(boxes), torch.cat(stability)


def _nothing(frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The answer to no prompt, so that joining answers always has the right shapes."""
    logits = torch.zeros(0, NUM_MASKS, frame.mask_side, frame.mask_side)
    return logits, torch.zeros(0, NUM_MASKS), torch.zeros(0, NUM_MASKS), torch.zeros(0, NUM_MASKS, 4)
