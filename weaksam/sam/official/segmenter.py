"""Serve the official Segment Anything models as a segmenter: any ViT-B, L or H ``.pth`` file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from weaksam.sam.batches import chosen_maps, decode_prompts
from weaksam.sam.lora import adapt
from weaksam.sam.mask_geometry import Frame, enlarge, measure, measure_in_input
from weaksam.sam.narrow_photos import widened
from weaksam.sam.official.architecture import build_sam, infer_architecture
from weaksam.sam.official.decoder import MAX_TOKENS, FastDecoder, PhotoSide
from weaksam.sam.official.encoder import FusedEncoder
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Embedding, EncoderPrecision, Masks
from weaksam.store.files import file_sha256, unchanged_files
from weaksam.store.weights import check_weights, load_into, load_state
from weaksam.structures.boxes import inclusive_from_xyxy
from weaksam.structures.devices import in_float64, moved_together

PROMPTS_ON_CPU, PROMPTS_ELSEWHERE = 4, 64  # decoded at once: few stay in a CPU's cache
PREPROCESSING = 1  # version of how a photo becomes the encoder's input; part of the embedding cache's keys
Decoding = Literal["exact", "fast", "plain"]


@dataclass(frozen=True)
class SamEmbedding(Embedding):
    """SAM's ``features`` (1, C, g, g) and the ``input_size`` (h, w) of the photo inside the square input."""

    features: Tensor
    input_size: tuple[int, int]


@dataclass(frozen=True)
class SamMasks(Masks):
    """``Masks`` that keep the logits ``(P, 3, g', g')`` of the padded square, so that ``full`` interpolates them.

    Masks and logits are on SAM's device.
    """

    logits: Tensor
    sam_frame: Frame
    threshold: float = 0.0

    def full(self, p_index: Tensor, k_index: Tensor) -> Tensor:
        """Masks ``k_index (N,)`` of prompts ``p_index (N,)`` as SAM itself gives them: bool ``(N, H, W)``."""
        return enlarge(chosen_maps(self.logits, p_index, k_index), self.sam_frame) > self.threshold

    def as_prompts(self, p_index: Tensor, k_index: Tensor) -> Tensor:
        """Masks ``k_index (N,)`` of prompts ``p_index (N,)`` as SAM's mask prompts ``(N, g', g')``."""
        return chosen_maps(self.logits, p_index, k_index)


class SegmentAnything:
    """Frozen SAM: encodes a photo once, answers batches of prompts with three masks each.

    Masks are in the frame of SAM's low-resolution logits without the padding (long side 256); boxes and stability are
    measured on the masks at the photo's own size, as ``SamAutomaticMaskGenerator`` does. ``decoding``: ``exact`` gives
    SAM's numbers up to float rounding from shared work (``FastDecoder``); ``fast`` moreover measures the masks of
    photos larger than SAM's input at that input's size (long side 1024), so that a box may be off by one of its
    pixels; ``plain`` runs SAM's own decoder, for comparison. ``precision`` and ``compiled``: of the image encoder, see
    ``FusedEncoder``.
    """

    costly_encoding: ClassVar[bool] = True

    def __init__(
        self,
        sam: Sam,
        name: str,
        fingerprint: str,
        decoding: Decoding = "exact",
        precision: EncoderPrecision = "float32",
        *,
        compiled: bool = False,
    ) -> None:
        self.sam = sam.eval().requires_grad_(False)
        self.name = name
        self.fingerprint = fingerprint + ("-fast" if decoding == "fast" else "")
        self.fingerprint += "-bfloat16" if precision == "bfloat16" else ""
        self.encoder = FusedEncoder(sam.image_encoder, precision, compiled=compiled)
        self.decoding = decoding
        self.transform = ResizeLongestSide(sam.image_encoder.img_size)
        shareable = decoding != "plain" and FastDecoder.fits(sam.mask_decoder)
        self._decoder = FastDecoder(sam.mask_decoder) if shareable else None
        self._photo: tuple[SamEmbedding, PhotoSide] | None = None  # of the photo prompted last

    @classmethod
    def load(
        cls,
        path: Path,
        device: torch.device,
        decoding: Decoding = "exact",
        precision: EncoderPrecision = "float32",
        *,
        compiled: bool = False,
        lora: Path | None = None,
    ) -> SegmentAnything:
        """Read an official checkpoint; the shapes of its tensors tell which variant it is.

        ``lora``: low-rank updates of the image encoder, which are merged into it.

        Raises:
            UserError: the file is missing, cut short, a web page, or no segment-anything checkpoint; or the updates
                belong to another encoder.
        """
        check_weights(Path(path), "segment-anything")
        with unchanged_files(Path(path)):
            sha256, state = file_sha256(path), load_state(path, "segment-anything")
        architecture = infer_architecture(state, path)
        sam = build_sam(architecture, sum(tensor.numel() for tensor in state.values()))
        load_into(sam, state, architecture.name)
        fingerprint = f"{architecture.name}-{sha256}"
        if lora is not None:
            fingerprint = adapt(sam.image_encoder, lora, fingerprint)
        return cls(sam.to(device), architecture.name, fingerprint, decoding, precision, compiled=compiled)

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> SamEmbedding:
        """Embed one upright RGB photo, uint8 ``(H, W, 3)``."""
        return self.encode_batch([image])[0]

    @torch.inference_mode()
    def encode_batch(self, images: Sequence[np.ndarray]) -> list[SamEmbedding]:
        """Embed several photos together, uint8 ``(H, W, 3)`` of any sizes; as one by one, up to rounding."""
        if not images:
            return []
        inputs = [self.transform.apply_image(widened(image, self.transform.target_length)) for image in images]
        resized = [torch.from_numpy(photo).permute(2, 0, 1).float() for photo in inputs]
        pixels = torch.stack([self.sam.preprocess(photo.to(self.sam.device)) for photo in resized])  # (B, 3, S, S)
        features = self.encoder(pixels).split(1)
        return [
            SamEmbedding((image.shape[0], image.shape[1]), feature, (photo.shape[1], photo.shape[2]))
            for image, photo, feature in zip(images, resized, features, strict=True)
        ]

    @property
    def embedding_version(self) -> str:
        """Preprocessing, kind of device and how the encoder computes, see ``CacheableSegmenter``."""
        encoder = self.encoder
        return f"sam-{PREPROCESSING} {self.sam.device.type} {encoder.precision}{' compiled' * encoder.compiled}"

    def pack(self, embedding: Embedding) -> dict[str, Tensor]:
        """The embedding as tensors, for the cache on disk."""
        assert isinstance(embedding, SamEmbedding), "pack needs what this segmenter's encode returned"
        sizes = torch.tensor([embedding.size, embedding.input_size])
        return {"features": embedding.features, "sizes": sizes}

    def unpack(self, tensors: Mapping[str, Tensor]) -> SamEmbedding:
        """The embedding that ``pack`` took apart."""
        (height, width), (h, w) = tensors["sizes"].tolist()
        return SamEmbedding((height, width), tensors["features"].to(self.sam.device), (h, w))

    @torch.inference_mode()
    def predict(self, embedding: Embedding, prompts: Prompts, *, min_pred_iou: float | None = None) -> Masks:
        """Three masks per prompt, see ``Segmenter.predict``; the masks stay on SAM's device.

        A prompt of fewer points than others (labels -1) is answered as if it stood alone.
        """
        assert isinstance(embedding, SamEmbedding), "predict needs what this segmenter's encode returned"
        device, side = self.sam.device, 4 * embedding.features.shape[-1]
        answer = decode_prompts(
            self._to_input(prompts, embedding.size),
            side,
            device,
            PROMPTS_ON_CPU if device.type == "cpu" else PROMPTS_ELSEWHERE,
            lambda together: self._answer(embedding, together, min_pred_iou),
        )
        frame, threshold = self._frame(embedding), self.sam.mask_threshold
        h, w = (max(1, round(length * side / frame.side)) for length in embedding.input_size)
        masks = answer.logits[..., :h, :w] > threshold
        cpu = torch.device("cpu")
        iou, stability, boxes = moved_together([answer.iou, answer.stability, answer.boxes], cpu)
        return SamMasks(masks, iou, stability, boxes, embedding.size, answer.logits, frame, threshold)

    def _to_input(self, prompts: Prompts, size: tuple[int, int]) -> Prompts:
        """``prompts`` on a photo ``(H, W)`` in SAM's input frame, in which a box is its two corner pixels."""
        points, boxes = prompts.points, prompts.boxes
        if points is not None:
            points = self.transform.apply_coords_torch(in_float64(points), size).float().to(points.device)
        if boxes is not None:
            exact = in_float64(inclusive_from_xyxy(boxes.float()))
            boxes = self.transform.apply_boxes_torch(exact, size).float().to(boxes.device)
        return Prompts(points, prompts.point_labels, boxes, prompts.mask_logits)

    def _prompt_embeddings(self, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """SAM's sparse and dense embeddings of prompts without padding in its input frame."""
        given = (prompts.points, prompts.point_labels, prompts.boxes, prompts.mask_logits)
        there = iter(moved_together([part for part in given if part is not None], self.sam.device))
        points, labels, boxes, logits = (None if part is None else next(there) for part in given)
        pair = None if points is None else (points, labels)
        masks = None if logits is None else logits[:, None]
        sparse, dense = self.sam.prompt_encoder(points=pair, boxes=boxes, masks=masks)
        return sparse, dense

    def _answer(
        self, embedding: SamEmbedding, prompts: Prompts, min_pred_iou: float | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits ``(P, 3, g', g')``, predicted IoU and stability ``(P, 3)``, photo boxes ``(P, 3, 4)``."""
        sparse, dense = self._prompt_embeddings(prompts)
        decoder, position = self.sam.mask_decoder, self.sam.prompt_encoder.get_dense_pe()
        # With masks among the prompts they share nothing of the photo
        shareable = self._decoder is not None and prompts.mask_logits is None
        if shareable and sparse.shape[1] + decoder.num_mask_tokens + 1 <= MAX_TOKENS:
            assert self._decoder is not None
            photo = self._photo_side(embedding, dense[:1], position)
            side, iou = self._decoder.prompts(photo, sparse)
            wanted = torch.ones_like(iou, dtype=torch.bool) if min_pred_iou is None else iou > min_pred_iou
            rows = wanted.any(1).nonzero()[:, 0]
            logits = iou.new_zeros(*iou.shape, *(4 * length for length in photo.grid))
            logits[rows] = self._decoder.logits(photo, side, rows)
        else:
            logits, iou = decoder(
                image_embeddings=embedding.features,
                image_pe=position,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
            wanted = torch.ones_like(iou, dtype=torch.bool) if min_pred_iou is None else iou > min_pred_iou
        stability, boxes = torch.zeros_like(iou), iou.new_zeros(*iou.shape, 4)
        boxes[wanted], stability[wanted] = self._measured(logits[wanted], embedding)
        # Drawn beside a wanted one: empty all the same, so that exact and plain agree
        logits[~wanted] = self.sam.mask_threshold
        return logits, iou, stability, boxes

    def _photo_side(self, embedding: SamEmbedding, dense: Tensor, position: Tensor) -> PhotoSide:
        """What all prompts of a photo share; kept for the photo prompted last."""
        assert self._decoder is not None
        if self._photo is None or self._photo[0] is not embedding:
            self._photo = (embedding, self._decoder.photo(embedding.features, dense, position))
        return self._photo[1]

    def _frame(self, embedding: SamEmbedding) -> Frame:
        return Frame(embedding.size, embedding.input_size, self.sam.image_encoder.img_size)

    def _measured(self, logits: Tensor, embedding: SamEmbedding) -> tuple[Tensor, Tensor]:
        """Photo boxes ``(M, 4)`` and stability ``(M,)`` of logits ``(M, g', g')``."""
        measured = measure_in_input if self.decoding == "fast" else measure
        return measured(logits, self._frame(embedding), self.sam.mask_threshold)
