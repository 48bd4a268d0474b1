"""The official Segment Anything models behind the segmenter protocol: any ViT-B, L or H ``.pth`` file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.amg import calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam.artifacts import file_sha256
from weaksam.config import UserError
from weaksam.sam.protocol import NUM_MASKS, Embedding, Masks, boxes_in_photo, check_prompts
from weaksam.structures.boxes import inclusive_from_xyxy
from weaksam.weights import load_into, load_state

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
DECODER_HEADS = 8  # the one number of the architecture that no tensor shape tells
STABILITY_OFFSET = 1.0  # logits, as in SAM's automatic mask generator
PROMPTS_AT_ONCE = 32
PREPROCESSING = 1  # version of how a photo becomes the encoder's input; part of the embedding cache's keys
VARIANTS = {(768, 12): "sam_vit_b", (1024, 24): "sam_vit_l", (1280, 32): "sam_vit_h"}


@dataclass(frozen=True)
class SamArchitecture:
    """The numbers that tell one SAM from another, read off the shapes of its tensors."""

    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    window_size: int
    global_blocks: tuple[int, ...]
    channels: int
    mask_channels: int
    num_masks: int
    decoder_depth: int
    decoder_mlp: int
    iou_depth: int
    iou_hidden: int

    @property
    def name(self) -> str:
        """``sam_vit_b``, ``sam_vit_l``, ``sam_vit_h``, or the encoder's width and depth where it is none of them."""
        return VARIANTS.get((self.embed_dim, self.depth), f"sam_{self.embed_dim}x{self.depth}")


@dataclass(frozen=True)
class SamEmbedding(Embedding):
    """SAM's ``features`` (1, C, g, g) and the ``input_size`` (h, w) of the photo inside the square input."""

    features: Tensor
    input_size: tuple[int, int]


@dataclass(frozen=True)
class SamMasks(Masks):
    """``Masks`` that keep the logits ``(P, 3, g', g')`` of the padded square, so that ``full`` interpolates them."""

    logits: Tensor
    input_size: tuple[int, int]
    input_side: int

    def full(self, p_index: Tensor, k_index: Tensor) -> Tensor:
        """Masks ``k_index (N,)`` of prompts ``p_index (N,)`` as SAM itself gives them: bool ``(N, H, W)``."""
        if len(p_index) == 0:
            return torch.zeros((0, *self.size), dtype=torch.bool)
        inner = unpad(self.logits[p_index, k_index][:, None].float(), self.input_size, self.input_side)
        return F.interpolate(inner, self.size, mode="bilinear", align_corners=False)[:, 0] > 0


class SegmentAnything:
    """Frozen SAM: encodes a photo once, answers batches of prompts with three masks each.

    Masks are in the frame of SAM's low-resolution logits without the padding (long side 256); boxes are measured on
    the masks at the input resolution (long side 1024), never taken from SAM's inclusive corners.
    """

    costly_encoding: ClassVar[bool] = True

    def __init__(self, sam: Sam, name: str, fingerprint: str) -> None:
        self.sam = sam.eval().requires_grad_(False)
        self.name = name
        self.fingerprint = fingerprint
        self.transform = ResizeLongestSide(sam.image_encoder.img_size)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> SegmentAnything:
        """Read an official checkpoint; which variant it is, its tensors tell.

        Raises:
            UserError: the file is missing, cut short, a web page, or no segment-anything checkpoint.
        """
        state = load_state(path, "segment-anything")
        architecture = infer_architecture(state, path)
        sam = build_sam(architecture)
        load_into(sam, state, architecture.name)
        return cls(sam.to(device), architecture.name, f"{architecture.name}-{file_sha256(path)}")

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> SamEmbedding:
        """Embed one upright RGB photo, uint8 ``(H, W, 3)``."""
        return self.encode_batch([image])[0]

    @torch.inference_mode()
    def encode_batch(self, images: Sequence[np.ndarray]) -> list[SamEmbedding]:
        """Embed several photos together, uint8 ``(H, W, 3)`` of any sizes; as one by one, up to rounding."""
        if not images:
            return []
        resized = [torch.from_numpy(self.transform.apply_image(image)).permute(2, 0, 1).float() for image in images]
        pixels = torch.stack([self.sam.preprocess(one.to(self.sam.device)) for one in resized])  # (B, 3, S, S)
        features = self.sam.image_encoder(pixels).split(1)
        return [
            SamEmbedding((image.shape[0], image.shape[1]), feature, (one.shape[1], one.shape[2]))
            for image, one, feature in zip(images, resized, features, strict=True)
        ]

    @property
    def embedding_version(self) -> str:
        """Preprocessing and kind of device, see ``CacheableSegmenter``."""
        return f"sam-{PREPROCESSING} {self.sam.device.type}"

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
    def predict(
        self,
        embedding: Embedding,
        *,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        min_pred_iou: float | None = None,
    ) -> Masks:
        """Three masks per prompt, see ``Segmenter.predict``; results are on the CPU."""
        assert isinstance(embedding, SamEmbedding), "predict needs what this segmenter's encode returned"
        num = check_prompts(points, point_labels, boxes)
        if points is not None and point_labels is None:
            point_labels = torch.ones(points.shape[:2])
        # To SAM's input frame, in which a box is its two corner pixels
        device = self.sam.device
        if points is not None:
            points = self.transform.apply_coords_torch(points.float(), embedding.size).to(device)
            point_labels = point_labels.to(device)  # type: ignore[union-attr]
        if boxes is not None:
            inclusive = inclusive_from_xyxy(boxes.float())
            boxes = self.transform.apply_boxes_torch(inclusive, embedding.size).to(device)
        side = 4 * embedding.features.shape[-1]
        answers = [self._empty(side)] + [
            self._answer(embedding, _part(points, at), _part(point_labels, at), _part(boxes, at))
            for at in range(0, num, PROMPTS_AT_ONCE)
        ]
        logits, iou, found = (torch.cat(column) for column in zip(*answers, strict=True))
        return self._masks(embedding, logits, iou, found)

    def _answer(
        self, embedding: SamEmbedding, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(P, 3, g', g')``, predicted IoU ``(P, 3)`` and photo boxes ``(P, 3, 4)`` of one small batch."""
        pair = None if points is None else (points, labels)
        sparse, dense = self.sam.prompt_encoder(points=pair, boxes=boxes, masks=None)
        logits, iou = self.sam.mask_decoder(
            image_embeddings=embedding.features,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        fine = unpad(logits, embedding.input_size, self.sam.image_encoder.img_size) > self.sam.mask_threshold
        return logits.cpu(), iou.cpu(), boxes_in_photo(fine, embedding.size).cpu()

    @staticmethod
    def _empty(side: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros(0, NUM_MASKS, side, side), torch.zeros(0, NUM_MASKS), torch.zeros(0, NUM_MASKS, 4)

    def _masks(self, embedding: SamEmbedding, logits: Tensor, iou: Tensor, boxes: Tensor) -> SamMasks:
        side = self.sam.image_encoder.img_size
        h, w = (max(1, round(length * logits.shape[-1] / side)) for length in embedding.input_size)
        masks = logits[..., :h, :w] > self.sam.mask_threshold
        stability = calculate_stability_score(logits[..., :h, :w], self.sam.mask_threshold, STABILITY_OFFSET)
        stability = torch.nan_to_num(stability)  # an empty mask is 0 / 0
        return SamMasks(masks, iou, stability, boxes, embedding.size, logits, embedding.input_size, side)


def unpad(logits: Tensor, input_size: tuple[int, int], side: int) -> Tensor:
    """Logits ``(P, K, g', g')`` of the padded square enlarged to ``side`` and cut to ``input_size`` (h, w)."""
    fine = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    return fine[..., : input_size[0], : input_size[1]]


def infer_architecture(state: Mapping[str, Tensor], path: Path) -> SamArchitecture:
    """Read the architecture off the tensor shapes of a checkpoint.

    Raises:
        UserError: tensors of a SAM encoder, prompt encoder or mask decoder are missing, as in MobileSAM or SAM 2.
    """
    try:
        return _infer(state)
    except KeyError as error:
        raise UserError(
            f"segment-anything weights were wanted in {path}, but among its {len(state)} tensors there is no "
            f"{error.args[0]!r}: give an official sam_vit_b, sam_vit_l or sam_vit_h .pth file."
        ) from None


def _infer(state: Mapping[str, Tensor]) -> SamArchitecture:
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    _, grid, _, embed_dim = state["image_encoder.pos_embed"].shape
    depth = _count(state, "image_encoder.blocks")
    relative = [state[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
    spans = [(length + 1) // 2 for length, _ in relative]
    iou_hidden = state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0]
    return SamArchitecture(
        image_size=grid * patch,
        patch_size=patch,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=embed_dim // relative[0][1],
        window_size=min(spans) if min(spans) < grid else 0,
        global_blocks=tuple(i for i, span in enumerate(spans) if span == grid),
        channels=state["image_encoder.neck.0.weight"].shape[0],
        mask_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        num_masks=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        decoder_depth=_count(state, "mask_decoder.transformer.layers"),
        decoder_mlp=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        iou_depth=_count(state, "mask_decoder.iou_prediction_head.layers"),
        iou_hidden=iou_hidden,
    )


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of modules in the list ``prefix``; KeyError where there is none."""
    found = {key[len(prefix) + 1 :].split(".")[0] for key in state if key.startswith(prefix + ".")}
    if not found:
        raise KeyError(prefix)
    return len(found)


def build_sam(architecture: SamArchitecture) -> Sam:
    """segment-anything's own classes at this size, on the CPU, with memory but without values for the weights."""
    a = architecture
    grid = a.image_size // a.patch_size
    with torch.device("meta"):
        encoder = ImageEncoderViT(
            img_size=a.image_size,
            patch_size=a.patch_size,
            embed_dim=a.embed_dim,
            depth=a.depth,
            num_heads=a.num_heads,
            out_chans=a.channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=a.window_size,
            global_attn_indexes=a.global_blocks,
        )
        prompts = PromptEncoder(a.channels, (grid, grid), (a.image_size, a.image_size), a.mask_channels)
        decoder = MaskDecoder(
            transformer_dim=a.channels,
            transformer=TwoWayTransformer(a.decoder_depth, a.channels, DECODER_HEADS, a.decoder_mlp),
            num_multimask_outputs=a.num_masks,
            iou_head_depth=a.iou_depth,
            iou_head_hidden_dim=a.iou_hidden,
        )
    for part in (encoder, prompts, decoder):
        part.to_empty(device="cpu")
    return Sam(encoder, prompts, decoder, list(PIXEL_MEAN), list(PIXEL_STD))


def _part(rows: Tensor | None, start: int) -> Tensor | None:
    return None if rows is None else rows[start : start + PROMPTS_AT_ONCE]
