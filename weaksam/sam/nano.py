"""sam_nano, the bundled small segmenter: for offline use and tests; real work takes segment-anything's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from weaksam.config import UserError, fingerprint_of
from weaksam.sam.nano_model import BOX_LABELS, INPUT_SIZE, MASK_SIZE, Architecture, NanoSam, Pyramid
from weaksam.sam.protocol import NUM_MASKS, PADDING, Embedding, Masks, check_prompts
from weaksam.weights import load_into, load_state, read_metadata

BUNDLED = Path(__file__).parent / "weights" / "sam_nano.safetensors"
FRAME_SIZE = 128  # long side of the working frame, pixels
CHUNK = 32  # prompts decoded at once: larger chunks leave the cache
MIN_SLOTS = 3  # the decoder was trained with three prompt slots
STABILITY_OFFSET = 1.0  # SAM's: areas at logits above and below the threshold by this are compared


@dataclass(frozen=True)
class NanoEmbedding(Embedding):
    """Features of one photo, and the ``(h, w)`` that it covers of the 256-pixel input."""

    features: Pyramid
    covered: tuple[int, int]


class SamNano:
    """Segmenter with a network small enough to ship, trained by ``tools/train_sam_nano.py`` on rendered scenes.

    Masks are answered in a frame of 128 pixels on the long side. One photo takes about 0.03 s to encode and 256
    points about 0.5 s on one CPU core.
    """

    name: ClassVar[str] = "sam_nano"
    costly_encoding: ClassVar[bool] = False

    def __init__(self, model: NanoSam, fingerprint: str, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.fingerprint = fingerprint

    @classmethod
    def load(cls, weights: Path | None = None, device: torch.device | str = "cpu") -> SamNano:
        """Read ``weights`` (the bundled ones if None); the architecture is stored beside them.

        Raises:
            UserError: the file is missing, is not safetensors, or belongs to another architecture.
        """
        path = BUNDLED if weights is None else Path(weights)
        state = load_state(path, "sam_nano")
        model = NanoSam(read_architecture(path))
        load_into(model, state, "sam_nano", allow_missing=(".num_batches_tracked",))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(model, fingerprint_of({"algorithm": "sam_nano-1", "weights": digest, "frame": FRAME_SIZE}), device)

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
        return NanoEmbedding(size, self.model.image_encoder(self.model.preprocess(pixels)[None]), covered)

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
        return NanoEmbedding((height, width), features, (h, w))

    @torch.inference_mode()
    def predict(
        self,
        embedding: Embedding,
        *,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        min_pred_iou: float | None = None,
    ) -> Masks:
        """Three masks per prompt, small to large by their area, see ``Segmenter.predict``; all on the CPU."""
        assert isinstance(embedding, NanoEmbedding), "predict needs what this segmenter's encode returned"
        num = check_prompts(points, point_labels, boxes)
        coords, labels = prompt_slots(embedding, points, point_labels, boxes)
        if num == 0:
            return self._answer(embedding, coords, labels)
        chunks = zip(coords.split(CHUNK), labels.split(CHUNK), strict=True)
        return _joined([self._answer(embedding, *chunk) for chunk in chunks])

    def _answer(self, embedding: NanoEmbedding, coords: Tensor, labels: Tensor) -> Masks:
        """Decode one chunk of prompts given in the 256-pixel frame."""
        first = torch.zeros(len(coords), dtype=torch.long, device=self.device)
        if len(coords):
            coords, labels = coords.to(self.device), labels.to(self.device)
            logits, iou = self.model.prompted(embedding.features, first, coords, labels)
            order = (logits > 0).sum((2, 3)).argsort(dim=1, stable=True)
            iou = iou.gather(1, order).clamp(0, 1).float().cpu()
            frame = working_logits(logits, embedding.covered).cpu()
            frame = frame.gather(1, order.cpu()[:, :, None, None].expand_as(frame))
        else:
            frame = working_logits(torch.zeros(0, NUM_MASKS, MASK_SIZE, MASK_SIZE), embedding.covered)
            iou = torch.zeros(0, NUM_MASKS)
        return Masks.from_working(frame > 0, iou, stability(frame), embedding.size)


def _joined(parts: list[Masks]) -> Masks:
    """Answers of several batches of prompts on one photo (at least one batch), in order."""
    masks, iou = torch.cat([part.masks for part in parts]), torch.cat([part.iou for part in parts])
    steady, boxes = torch.cat([part.stability for part in parts]), torch.cat([part.boxes for part in parts])
    return Masks(masks, iou, steady, boxes, parts[0].size)


def read_architecture(path: Path) -> Architecture:
    """The architecture stored in a sam_nano weights file; a file without one is a ``UserError``."""
    stored = read_metadata(path).get("architecture")
    if isinstance(stored, dict) and set(stored) <= {field.name for field in fields(Architecture)}:
        return Architecture(**stored)
    raise UserError(
        f"sam_nano wants weights that tools/train_sam_nano.py wrote, but {path} holds those of another model: give "
        "its sam_nano.safetensors, or set segmenter.family=segment_anything for SAM's own weights."
    )


def prompt_slots(
    embedding: NanoEmbedding, points: Tensor | None, point_labels: Tensor | None, boxes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Prompts as slots: ``coords (P, K, 2)`` in the 256-pixel frame and ``labels (P, K)``, K at least 3.

    A box comes first, as its two corners; padding fills the rest.
    """
    coords, labels = [], []
    if boxes is not None:
        coords.append(boxes.float().reshape(-1, 2, 2))
        labels.append(torch.tensor(BOX_LABELS, device=boxes.device).expand(len(boxes), 2))
    if points is not None:
        coords.append(points.float())
        labels.append(torch.ones(points.shape[:2], dtype=torch.long) if point_labels is None else point_labels.long())
    height, width = embedding.size
    ratio = torch.tensor([embedding.covered[1] / width, embedding.covered[0] / height])
    slots, kinds = torch.cat([c.cpu() for c in coords], 1) * ratio, torch.cat([n.cpu() for n in labels], 1)
    missing = max(0, MIN_SLOTS - slots.shape[1])
    return F.pad(slots, (0, 0, 0, missing)), F.pad(kinds, (0, missing), value=PADDING)


def working_logits(logits: Tensor, covered: tuple[int, int]) -> Tensor:
    """Decoder logits ``(P, 3, 64, 64)`` resized to the working frame, the padding cut off: ``(P, 3, h, w)``.

    ``covered`` is the part ``(h, w)`` of the 256-pixel input that is photo.
    """
    height, width = (max(1, round(side * FRAME_SIZE / INPUT_SIZE)) for side in covered)
    if len(logits) == 0:
        return logits.new_zeros(0, NUM_MASKS, height, width)
    large = F.interpolate(logits, size=(FRAME_SIZE, FRAME_SIZE), mode="bilinear", align_corners=False)
    return large[..., :height, :width]


def stability(logits: Tensor) -> Tensor:
    """SAM's stability score ``(P, 3)`` in [0, 1]: area above +1 over area above -1; 0 where the latter is empty."""
    inner = (logits > STABILITY_OFFSET).sum((2, 3))
    outer = (logits > -STABILITY_OFFSET).sum((2, 3))
    return inner / outer.clamp(min=1)
