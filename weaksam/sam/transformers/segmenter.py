"""Serve SAM, SAM-HQ, SAM 2, EdgeTAM and SAM 3's tracker, as transformers maintains them, as a segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from weaksam.config import fingerprint_of
from weaksam.sam.batches import chosen_maps, decode_prompts
from weaksam.sam.lora import adapt
from weaksam.sam.mask_geometry import Frame, enlarge, measure
from weaksam.sam.narrow_photos import widened
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Embedding, EncoderPrecision, Masks
from weaksam.sam.transformers.files import find_model
from weaksam.sam.transformers.models import HfModel, load_model
from weaksam.structures.boxes import inclusive_from_xyxy
from weaksam.structures.devices import moved_together

PROMPTS_ON_CPU, PROMPTS_ELSEWHERE = 4, 32  # decoded at once: few stay in a CPU's cache
MASKS_AT_ONCE = 8  # enlarged to the photo's size together
EMPTY_LOGIT = -32.0  # of masks whose predicted IoU is not above min_pred_iou


@dataclass(frozen=True)
class HfEmbedding(Embedding):
    """Image features ``(1, C, h, w)`` of one photo, one level or several as the family has them, and its frame."""

    features: tuple[Tensor, ...]
    frame: Frame


@dataclass(frozen=True)
class HfMasks(Masks):
    """``Masks`` that keep the square logits ``(P, 3, g, g)``, so that ``full`` enlarges them as transformers does.

    Masks and logits are on the network's device.
    """

    logits: Tensor
    frame: Frame

    def full(self, p_index: Tensor, k_index: Tensor) -> Tensor:
        """Masks ``k_index (N,)`` of prompts ``p_index (N,)`` in the photo's frame: bool ``(N, H, W)``."""
        chosen = chosen_maps(self.logits, p_index, k_index).split(MASKS_AT_ONCE)
        return torch.cat([enlarge(part, self.frame) > 0 for part in chosen])

    def as_prompts(self, p_index: Tensor, k_index: Tensor) -> Tensor:
        """Masks ``k_index (N,)`` of prompts ``p_index (N,)`` as the network's mask prompts ``(N, g, g)``."""
        return chosen_maps(self.logits, p_index, k_index)


class TransformersSam:
    """A frozen promptable model of transformers: encodes a photo once, answers prompts with three masks each.

    Masks are in the frame of the low-resolution logits without padding (256 pixels a side for most families); boxes
    and stability are measured on them enlarged to the photo. ``precision`` is that of the image encoder; prompts are
    always decoded in float32.
    """

    costly_encoding: ClassVar[bool] = True

    def __init__(self, model: HfModel, device: torch.device, precision: EncoderPrecision = "float32") -> None:
        self.network: Any = model.network.to(device)
        self.device = device
        self.model = model
        self.precision = precision
        self.name = model.name
        self.fingerprint = fingerprint_of({"model": model.fingerprint, "precision": precision})

    @classmethod
    def load(
        cls,
        weights: Path,
        device: torch.device,
        precision: EncoderPrecision = "float32",
        lora: Path | None = None,
    ) -> TransformersSam:
        """Read the model in the folder ``weights``, or with that id (``owner/name``) on the hub.

        ``lora``: low-rank updates of the image encoder, which are merged into it.

        Raises:
            UserError: there is no such model, it cannot be fetched, is of no family that answers points and boxes,
                or a file is broken or belongs to another variant; or the updates belong to another encoder.
        """
        model = load_model(find_model(weights))
        if lora is not None:
            network: Any = model.network
            model = replace(model, fingerprint=adapt(network.vision_encoder, lora, model.fingerprint))
        return cls(model, device, precision)

    def encode(self, image: np.ndarray) -> HfEmbedding:
        """Embed one upright RGB photo, uint8 ``(H, W, 3)``."""
        return self.encode_batch([image])[0]

    @torch.inference_mode()
    def encode_batch(self, images: Sequence[np.ndarray]) -> list[HfEmbedding]:
        """Embed several photos together, uint8 ``(H, W, 3)`` of any sizes; as one by one, up to rounding."""
        if not images:
            return []
        side, padded = self.model.image_size, self.model.family.padded
        photos = [widened(image, side) if padded else image for image in images]
        inputs = self.model.processor(images=photos, input_data_format="channels_last", return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device, torch.float32)  # (B, 3, S, S)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            embedded = self.network.get_image_embeddings(pixels)
        levels = [level.float().contiguous().split(1) for level in self.levels(embedded)]
        whole = [tuple(pixels.shape[-2:])] * len(images)
        covered = inputs["reshaped_input_sizes"] if padded else whole
        return [
            self._embedding((image.shape[0], image.shape[1]), (int(h), int(w)), features)
            for image, (h, w), *features in zip(images, covered, *levels, strict=True)
        ]

    def _embedding(self, size: tuple[int, int], input_size: tuple[int, int], features: Sequence[Tensor]) -> HfEmbedding:
        frame = Frame(size, input_size, self.model.image_size, stretched=not self.model.family.padded)
        return HfEmbedding(size, tuple(features), frame)

    @property
    def embedding_version(self) -> str:
        """Preprocessing, which is transformers' own, and kind of device, see ``CacheableSegmenter``."""
        return f"transformers {version('transformers')} {self.device.type}"

    def pack(self, embedding: Embedding) -> dict[str, Tensor]:
        """The embedding as tensors, for the cache on disk."""
        assert isinstance(embedding, HfEmbedding), "pack needs what this segmenter's encode returned"
        levels = {f"level{number}": level for number, level in enumerate(embedding.features)}
        return {**levels, "sizes": torch.tensor([embedding.size, embedding.frame.input_size])}

    def unpack(self, tensors: Mapping[str, Tensor]) -> HfEmbedding:
        """The embedding that ``pack`` took apart."""
        (height, width), (h, w) = tensors["sizes"].tolist()
        levels = [tensors[f"level{number}"].to(self.device) for number in range(len(tensors) - 1)]
        return self._embedding((height, width), (h, w), levels)

    def levels(self, embedded: Any) -> list[Tensor]:
        """The tensors that the decoder needs of what the image encoder gave."""
        if self.model.family.name == "sam_hq":
            return [embedded[0], embedded[1][0]]  # of the encoder's blocks, it uses the first global one
        return [embedded] if isinstance(embedded, Tensor) else list(embedded)

    def decoder_inputs(self, features: tuple[Tensor, ...]) -> dict[str, Any]:
        """A photo's features as arguments of the network."""
        if self.model.family.name == "sam":
            return {"image_embeddings": features[0]}
        if self.model.family.name == "sam_hq":
            return {"image_embeddings": features[0], "intermediate_embeddings": [features[1]]}
        return {"image_embeddings": list(features)}

    @torch.inference_mode()
    def predict(self, embedding: Embedding, prompts: Prompts, *, min_pred_iou: float | None = None) -> HfMasks:
        """Three masks per prompt, see ``Segmenter.predict``; the masks stay on the network's device.

        A prompt of fewer points than others (labels -1) is answered as if it stood alone.
        """
        assert isinstance(embedding, HfEmbedding), "predict needs what this segmenter's encode returned"
        frame, side = embedding.frame, 4 * self.network.prompt_encoder.image_embedding_size[0]
        answer = decode_prompts(
            prompts,
            side,
            self.device,
            PROMPTS_ON_CPU if self.device.type == "cpu" else PROMPTS_ELSEWHERE,
            lambda together: self._answer(embedding, self._prompt_inputs(together, frame), min_pred_iou),
        )
        h, w = (max(1, round(length * side / frame.side)) for length in frame.input_size)
        masks = answer.logits[..., :h, :w] > 0
        cpu = torch.device("cpu")
        iou, stability, boxes = moved_together([answer.iou, answer.stability, answer.boxes], cpu)
        return HfMasks(masks, iou, stability, boxes, frame.size, answer.logits, frame)

    def _prompt_inputs(self, prompts: Prompts, frame: Frame) -> dict[str, Tensor]:
        """Prompts without padding as arguments of the network; a box with no point beside it is a box alone."""
        points, labels, boxes = prompts.points, prompts.point_labels, prompts.boxes
        inputs = {}
        if points is not None and labels is not None and (points.shape[1] or boxes is None):
            inputs["input_points"] = to_input(points.float(), frame)
            inputs["input_labels"] = labels.long()
        if boxes is not None:  # a box is its two corner pixels
            corners = inclusive_from_xyxy(boxes.float()).reshape(-1, 2, 2)
            inputs["input_boxes"] = to_input(corners, frame).reshape(-1, 4)
        if prompts.mask_logits is not None:
            inputs["input_masks"] = prompts.mask_logits
        there = dict(zip(inputs, moved_together(list(inputs.values()), self.device), strict=True))
        # Many prompts of a photo; but the network takes a mask for each photo: each prompt gets the photo for itself
        many = prompts.mask_logits is None
        return {name: value[None] if many else value[:, None] for name, value in there.items()}

    def _answer(
        self, embedding: HfEmbedding, prompts: Mapping[str, Tensor], min_pred_iou: float | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits ``(P, 3, g, g)``, predicted IoU, stability ``(P, 3)`` and boxes ``(P, 3, 4)`` of one small batch."""
        num_photos = len(next(iter(prompts.values())))  # as often as there are prompts with masks
        features = tuple(level.expand(num_photos, *level.shape[1:]) for level in embedding.features)
        answer = self.network(**self.decoder_inputs(features), **prompts, multimask_output=True)
        logits, iou = answer.pred_masks.flatten(0, 1).float(), answer.iou_scores.flatten(0, 1).float()
        wanted = torch.ones_like(iou, dtype=torch.bool) if min_pred_iou is None else iou > min_pred_iou
        logits = torch.where(wanted[..., None, None], logits, EMPTY_LOGIT)
        boxes, stability = iou.new_zeros(*iou.shape, 4), torch.zeros_like(iou)
        boxes[wanted], stability[wanted] = measure(logits[wanted], embedding.frame)
        return logits, iou, stability, boxes


def to_input(xy: Tensor, frame: Frame) -> Tensor:
    """Photo pixels ``(..., 2)`` as pixels of the network's input."""
    (height, width), (h, w) = frame.size, frame.input_size
    return torch.stack([xy[..., 0] * (w / width), xy[..., 1] * (h / height)], -1)
