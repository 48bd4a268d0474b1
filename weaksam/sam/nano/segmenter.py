"""Serve the bundled sam_nano as a segmenter, for offline use and tests; real work takes segment-anything's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from weaksam.config import UserError, fingerprint_of
from weaksam.sam.lora import adapt
from weaksam.sam.nano.decoder import NanoDecoder, SharedFeatures, denormals_as_zero
from weaksam.sam.nano.frame import FRAME_SIZE, areas, frame_size, framed, stability, working_logits
from weaksam.sam.nano.model import BOX_LABELS, INPUT_SIZE, Architecture, NanoSam, Pyramid, folded
from weaksam.sam.prompts import PADDING, Prompts
from weaksam.sam.protocol import NUM_MASKS, Embedding, Masks, boxes_in_photo
from weaksam.store.files import file_sha256, unchanged_files
from weaksam.store.weight_headers import described_numbers, refuse_larger_network
from weaksam.store.weights import check_weights, load_into, load_state, read_metadata

BUNDLED = Path(__file__).parents[1] / "weights" / "sam_nano.safetensors"
PROMPTS_AT_ONCE = 64  # decoded
MASKS_AT_ONCE = 24  # enlarged and measured: 1.5 MiB of logits
_MOST_BLOCKS = 64
MIN_SLOTS = 3  # the decoder was trained with three prompt slots


@dataclass(frozen=True)
class NanoEmbedding(Embedding):
    """Features of one photo, and the ``(h, w)`` that it covers of the 256-pixel input.

    ``shared`` is what all its prompts share when decoded fast, None otherwise.
    """

    features: Pyramid
    covered: tuple[int, int]
    shared: SharedFeatures | None = None


class SamNano:
    """Segmenter with a network small enough to ship, trained by ``tools/train_sam_nano.py`` on rendered scenes.

    Masks are answered in a frame of 128 pixels on the long side. ``fast`` (see ``NanoDecoder``) changes the answers by
    float rounding only; without it the network runs as it was trained, several times slower.
    """

    name: ClassVar[str] = "sam_nano"
    costly_encoding: ClassVar[bool] = False

    def __init__(
        self, model: NanoSam, fingerprint: str, device: torch.device | str = "cpu", *, fast: bool = True
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.fingerprint = fingerprint
        self.decoder = NanoDecoder(self.model) if fast else None
        self.encoder = folded(self.model.image_encoder) if fast else self.model.image_encoder

    @classmethod
    def load(
        cls,
        weights: Path | None = None,
        device: torch.device | str = "cpu",
        *,
        fast: bool = True,
        lora: Path | None = None,
    ) -> SamNano:
        """Read ``weights`` (the bundled ones if None); the architecture is stored beside them.

        ``lora``: low-rank updates of the image encoder, which are merged into it.

        Raises:
            UserError: the file is missing, is not safetensors, or belongs to another architecture; or the updates
                belong to another encoder.
        """
        path = BUNDLED if weights is None else Path(weights)
        check_weights(path, "sam_nano")
        with unchanged_files(path):
            digest, state = file_sha256(path), load_state(path, "sam_nano")
            architecture = read_architecture(path)
        num_held = sum(tensor.numel() for tensor in state.values())
        refuse_larger_network(
            described_numbers(lambda: NanoSam(architecture)), num_held, "sam_nano", "its architecture"
        )
        model = NanoSam(architecture)
        load_into(model, state, "sam_nano", allow_missing=(".num_batches_tracked",))
        fingerprint = fingerprint_of({"algorithm": "sam_nano-1", "weights": digest, "frame": FRAME_SIZE})
        if lora is not None:
            fingerprint = adapt(model.image_encoder, lora, fingerprint)
        return cls(model, fingerprint, device, fast=fast)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.model.pixel_mean.device

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> NanoEmbedding:
        """Embed one upright RGB photo, uint8 ``(H, W, 3)``, scaled to 256 pixels on its longer side and padded."""
        size = (image.shape[0], image.shape[1])
        ratio = INPUT_SIZE / max(size)
        covered = (max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio)))
        resized = Image.fromarray(image).resize(covered[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized, np.float32)).permute(2, 0, 1).to(self.device)
        features = self.encoder(self.model.preprocess(pixels)[None])
        return self._embedding(size, Pyramid(*(level.contiguous() for level in features)), covered)

    @torch.inference_mode()
    def _embedding(self, size: tuple[int, int], features: Pyramid, covered: tuple[int, int]) -> NanoEmbedding:
        """With what prompts share computed from ``features``, of which all levels are contiguous."""
        return NanoEmbedding(size, features, covered, self.decoder.shared(features) if self.decoder else None)

    @property
    def embedding_version(self) -> str:
        """Preprocessing and kind of device, see ``CacheableSegmenter``."""
        return f"nano-1 {self.device.type}"

    def pack(self, embedding: Embedding) -> dict[str, Tensor]:
        """The embedding as tensors, for the cache on disk."""
        assert isinstance(embedding, NanoEmbedding), "pack needs what this segmenter's encode returned"
        return {**embedding.features._asdict(), "sizes": torch.tensor([embedding.size, embedding.covered])}

    def unpack(self, tensors: Mapping[str, Tensor]) -> NanoEmbedding:
        """The embedding that ``pack`` took apart."""
        (height, width), (h, w) = tensors["sizes"].tolist()
        features = Pyramid(*(tensors[name].to(self.device) for name in Pyramid._fields))
        return self._embedding((height, width), features, (h, w))

    @torch.inference_mode()
    def predict(self, embedding: Embedding, prompts: Prompts, *, min_pred_iou: float | None = None) -> Masks:
        """Three masks per prompt, small to large by their area, see ``Segmenter.predict``; all on the CPU.

        Where no mask of a prompt is above ``min_pred_iou``, its three predicted IoU are in no particular order.
        """
        assert isinstance(embedding, NanoEmbedding), "predict needs what this segmenter's encode returned"
        coords, labels = prompt_slots(embedding, prompts)
        limit = -torch.inf if min_pred_iou is None else min_pred_iou
        answer = _empty_answer(embedding, len(coords))
        for start in range(0, len(coords), PROMPTS_AT_ONCE):
            rows = slice(start, start + PROMPTS_AT_ONCE)
            chunk = coords[rows].to(self.device), labels[rows].to(self.device)
            if self.decoder is None or embedding.shared is None:
                self._answer(answer, rows, embedding, *chunk)
            else:
                self._answer_fast(answer, rows, embedding, *chunk, limit)
        return answer

    def _answer(self, answer: Masks, rows: slice, embedding: NanoEmbedding, coords: Tensor, labels: Tensor) -> None:
        """Fill in one chunk of prompts given in the 256-pixel frame, as the network was trained."""
        first = torch.zeros(len(coords), dtype=torch.long, device=self.device)
        logits, iou = self.model.prompted(embedding.features, first, coords, labels)
        order = (logits > 0).sum((2, 3)).argsort(dim=1, stable=True)
        frame = working_logits(logits, embedding.covered).cpu()
        frame = frame.gather(1, order.cpu()[:, :, None, None].expand_as(frame))
        answer.masks[rows], answer.stability[rows] = frame > 0, stability(frame)
        answer.iou[rows] = iou.gather(1, order).clamp(0, 1).float().cpu()
        answer.boxes[rows] = boxes_in_photo(answer.masks[rows], embedding.size)

    def _answer_fast(
        self, answer: Masks, rows: slice, embedding: NanoEmbedding, coords: Tensor, labels: Tensor, limit: float
    ) -> None:
        """The same, drawing only what is predicted above ``limit``."""
        assert self.decoder is not None and embedding.shared is not None
        with denormals_as_zero():
            decoded = self.decoder.decode(embedding.features, embedding.shared, coords, labels)
        iou = decoded.iou.float().clamp(0, 1)
        answer.iou[rows] = iou.cpu()
        drawn = list(self.decoder.draw(embedding.shared, decoded, (iou > limit).any(1)))
        if not drawn:
            return
        prompts = torch.cat([part for part, _ in drawn]).cpu() + rows.start
        logits = torch.cat([part for _, part in drawn]).float().cpu()
        order = areas(logits).argsort(dim=1, stable=True)
        answer.iou[prompts] = answer.iou[prompts].gather(1, order)
        row, number = (answer.iou[prompts] > limit).nonzero(as_tuple=True)
        flat, source = logits.flatten(0, 1), row * NUM_MASKS + order[row, number]
        for p, k, chosen in zip(*(index.split(MASKS_AT_ONCE) for index in (prompts[row], number, source)), strict=True):
            answer.masks[p, k], answer.stability[p, k], answer.boxes[p, k] = framed(
                flat[chosen], embedding.covered, embedding.size
            )


def _empty_answer(embedding: NanoEmbedding, num: int) -> Masks:
    """``num`` prompts' answers, nothing drawn yet."""
    shape = num, NUM_MASKS
    masks = torch.zeros(*shape, *frame_size(embedding.covered), dtype=torch.bool)
    return Masks(masks, torch.zeros(shape), torch.zeros(shape), torch.zeros(*shape, 4), embedding.size)


def read_architecture(path: Path) -> Architecture:
    """The architecture stored in a sam_nano weights file; a file without one is a ``UserError``."""
    stored = read_metadata(path).get("architecture")
    if isinstance(stored, dict) and set(stored) <= {field.name for field in fields(Architecture)}:
        architecture = Architecture(**stored)
        encoder, *sizes = astuple(architecture)
        sound = encoder in ("conv", "vit") and all(isinstance(size, int) and 0 < size <= 4096 for size in sizes)
        if sound and architecture.depth <= _MOST_BLOCKS:
            return architecture
    raise UserError(
        f"sam_nano wants weights that tools/train_sam_nano.py wrote, but {path} holds those of another model: give "
        "its sam_nano.safetensors, or set segmenter.family=segment_anything for SAM's own weights."
    )


def prompt_slots(embedding: NanoEmbedding, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Prompts as slots: ``coords (P, K, 2)`` in the 256-pixel frame and ``labels (P, K)``, K at least 3.

    A box comes first, as its two corners; padding fills the rest.
    """
    coords, labels = [], []
    if prompts.boxes is not None:
        coords.append(prompts.boxes.float().reshape(-1, 2, 2))
        labels.append(torch.tensor(BOX_LABELS).expand(len(prompts), 2))
    if prompts.points is not None and prompts.point_labels is not None:
        coords.append(prompts.points.float())
        labels.append(prompts.point_labels.long())
    height, width = embedding.size
    ratio = torch.tensor([embedding.covered[1] / width, embedding.covered[0] / height])
    slots = torch.cat([xy.cpu() for xy in coords], 1) * ratio
    slot_labels = torch.cat([label.cpu() for label in labels], 1)
    missing = max(0, MIN_SLOTS - slots.shape[1])
    return F.pad(slots, (0, 0, 0, missing)), F.pad(slot_labels, (0, missing), value=PADDING)
