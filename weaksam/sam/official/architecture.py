"""Infer the architecture of an official Segment Anything checkpoint from its tensor shapes, and build it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.store.weight_headers import refuse_larger_network

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
DECODER_HEADS = 8  # the one number of the architecture that no tensor shape tells
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
    except (IndexError, ValueError, ZeroDivisionError):
        raise UserError(
            f"segment-anything weights were wanted in {path}, but its tensors have the shapes of no such model: give "
            "an official sam_vit_b, sam_vit_l or sam_vit_h .pth file."
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
    modules = {key[len(prefix) + 1 :].split(".")[0] for key in state if key.startswith(prefix + ".")}
    if not modules:
        raise KeyError(prefix)
    return len(modules)


def build_sam(architecture: SamArchitecture, num_held: int | None = None) -> Sam:
    """segment-anything's own classes at this size, on the CPU, with memory but without values for the weights.

    Raises `UserError` where that is far more memory than for the ``num_held`` numbers of a checkpoint.
    """
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
    if num_held is not None:
        parameters = itertools.chain(*(part.parameters() for part in (encoder, prompts, decoder)))
        num_described = sum(parameter.numel() for parameter in parameters)
        refuse_larger_network(num_described, num_held, architecture.name, "the shape of its tensors")
    for part in (encoder, prompts, decoder):
        part.to_empty(device="cpu")
    return Sam(encoder, prompts, decoder, list(PIXEL_MEAN), list(PIXEL_STD))
