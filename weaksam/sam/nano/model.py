"""Build the network of sam_nano: SAM's prompt encoder and mask decoder at toy size over a small image encoder."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

INPUT_SIZE = 256  # pixels, long side
STRIDE = 16
GRID = INPUT_SIZE // STRIDE
MASK_SIZE = 4 * GRID
DRAWN_STEP = INPUT_SIZE / MASK_SIZE
BOX_LABELS = (2, 3)  # top-left and bottom-right corner, beside SAM's 1 foreground, 0 background, -1 padding


@dataclass(frozen=True)
class Architecture:
    """What decides the shapes of the weights; stored beside them."""

    encoder: Literal["conv", "vit"] = "conv"
    dim: int = 128  # channels of the embedding and the decoder
    width: int = 32  # channels at stride 4; doubled at stride 8
    deep: int = 192  # channels at stride 16
    depth: int = 3  # residual blocks (conv) or half the transformer blocks (vit) at stride 16


class Pyramid(NamedTuple):
    """An encoded batch: ``s16 (B, dim, 16, 16)`` with ``s8 (B, 2 width, 32, 32)`` and ``s4 (B, width, 64, 64)``."""

    s16: Tensor
    s8: Tensor
    s4: Tensor


def _conv(inside: int, outside: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3x3 convolution, batch-norm, ReLU."""
    conv = nn.Conv2d(inside, outside, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> the same."""
        return F.relu(x + self.second(self.first(x)))


class ConvTrunk(nn.Module):
    """Residual blocks at stride 16, the last ones dilated, with a global mean mixed back in."""

    def __init__(self, spec: Architecture) -> None:
        super().__init__()
        self.down = _conv(2 * spec.width, spec.deep, stride=2)
        self.blocks = nn.Sequential(*(Residual(spec.deep, dilation=1 + i) for i in range(spec.depth)))
        self.context = nn.Linear(spec.deep, spec.deep)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 2 width, 32, 32)`` -> ``(B, deep, 16, 16)``."""
        x = self.blocks(self.down(x))
        return x + self.context(x.mean((2, 3)))[:, :, None, None]


class ViTTrunk(nn.Module):
    """SAM's transformer blocks with relative positions over stride-16 tokens."""

    def __init__(self, spec: Architecture) -> None:
        super().__init__()
        self.down = nn.Conv2d(2 * spec.width, spec.deep, 2, 2)
        self.pos_embed = nn.Parameter(torch.randn(1, GRID, GRID, spec.deep) * 0.02)
        grid = (GRID, GRID)
        self.blocks = nn.Sequential(
            *(Block(spec.deep, spec.deep // 32, use_rel_pos=True, input_size=grid) for _ in range(2 * spec.depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 2 width, 32, 32)`` -> ``(B, deep, 16, 16)``."""
        tokens = self.down(x).permute(0, 2, 3, 1) + self.pos_embed
        return self.blocks(tokens).permute(0, 3, 1, 2)


class NanoEncoder(nn.Module):
    """A convolutional stem, a trunk of either kind at stride 16, and a top-down neck."""

    def __init__(self, spec: Architecture) -> None:
        super().__init__()
        self.img_size = INPUT_SIZE
        width = spec.width
        self.stem = nn.Sequential(_conv(3, width, stride=2), _conv(width, width, stride=2), Residual(width))
        self.middle = nn.Sequential(_conv(width, 2 * width, stride=2), Residual(2 * width))
        self.trunk: nn.Module = ConvTrunk(spec) if spec.encoder == "conv" else ViTTrunk(spec)
        self.neck16 = nn.Conv2d(spec.deep, spec.dim, 1)
        self.neck8 = nn.Conv2d(spec.dim, 2 * width, 1)
        self.neck4 = nn.Conv2d(2 * width, width, 1)
        self.smooth8, self.smooth4 = Residual(2 * width), Residual(width)

    def forward(self, images: Tensor) -> Pyramid:
        """Normalised padded images ``(B, 3, 256, 256)`` -> ``Pyramid``."""
        c4 = self.stem(images)
        c8 = self.middle(c4)
        s16 = self.neck16(self.trunk(c8))
        s8 = self.smooth8(F.relu(c8 + F.interpolate(self.neck8(s16), scale_factor=2.0, mode="nearest")))
        s4 = self.smooth4(F.relu(c4 + F.interpolate(self.neck4(s8), scale_factor=2.0, mode="nearest")))
        return Pyramid(s16, s8, s4)


def folded(encoder: NanoEncoder) -> NanoEncoder:
    """A copy of a frozen ``encoder`` that computes the same without batch norms, laid out as the CPU likes it."""
    copied = copy.deepcopy(encoder).eval()
    for block in [module for module in copied.modules() if isinstance(module, nn.Sequential)]:
        for index, (conv, norm) in enumerate(itertools.pairwise(block)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[index], block[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return copied.to(memory_format=torch.channels_last)


class NanoPromptEncoder(PromptEncoder):  # type: ignore[misc]  # untyped library
    """SAM's prompt encoder with two additions that let a small network learn fast.

    Every point also brings the image features under it, and points and boxes are drawn as SAM's mask prompt.
    """

    def __init__(self, spec: Architecture) -> None:
        super().__init__(spec.dim, (GRID, GRID), (INPUT_SIZE, INPUT_SIZE), mask_in_chans=16, activation=nn.ReLU)
        self.from_features = nn.Linear(spec.dim + 2 * spec.width + spec.width, spec.dim)

    def embed(self, coords: Tensor, labels: Tensor, features: Pyramid, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``(N, K, dim)`` and a dense map ``(N, dim, 16, 16)`` for N prompts of K slots.

        ``coords (N, K, 2)`` are xy in the 256-pixel frame. ``labels (N, K)``: 1, 0, -1 as SAM's, 2 and 3 a box's
        corners. ``image_index (N,)`` says whose features they point at.
        """
        return self.tokens(coords, labels, features, image_index), self.mask_downscaling(draw_prompts(coords, labels))

    def tokens(self, coords: Tensor, labels: Tensor, features: Pyramid, image_index: Tensor) -> Tensor:
        """Tokens ``(N, K, dim)`` of ``embed``: each slot's position, its label's embedding, and the image under it."""
        tokens = self.pe_layer.forward_with_coords(coords, self.input_image_size)
        by_label = torch.stack([embed.weight[0] for embed in self.point_embeddings])  # (4, dim)
        tokens = tokens + by_label[labels.clamp(min=0)] + self._under(coords, features, image_index)
        return torch.where((labels < 0)[..., None], self.not_a_point_embed.weight[0], tokens)

    def _under(self, coords: Tensor, features: Pyramid, image_index: Tensor) -> Tensor:
        """Features ``(N, K, dim)`` of the image under each point, bilinear."""
        sampled = [sample_points(level, coords, image_index) for level in features]
        return self.from_features(torch.cat(sampled, dim=-1))


def sample_points(level: Tensor, coords: Tensor, image_index: Tensor) -> Tensor:
    """The features ``(N, K, C)`` of ``level (B, C, h, w)`` at the cell that holds each of ``coords (N, K, 2)``."""
    height, width = level.shape[-2:]
    x = (coords[..., 0] * (width / INPUT_SIZE)).long().clamp(0, width - 1)
    y = (coords[..., 1] * (height / INPUT_SIZE)).long().clamp(0, height - 1)
    return level.permute(0, 2, 3, 1)[image_index[:, None], y, x]


def draw_prompts(coords: Tensor, labels: Tensor) -> Tensor:
    """Draw prompts as a mask prompt ``(N, 1, 64, 64)``: a bump of +1 / -1 per point, +1 / -1 inside / outside a box."""
    pixels = torch.arange(MASK_SIZE, device=coords.device)
    row, column = bumps(pixels, coords[..., 1:2]), bumps(pixels, coords[..., 0:1])  # (N, K, 64)
    sign = (labels == 1).to(coords.dtype) - (labels == 0).to(coords.dtype)
    drawn = torch.einsum("nk,nky,nkx->nyx", sign, row, column)
    return (drawn + _draw_boxes(coords, labels, (pixels + 0.5) * DRAWN_STEP))[:, None]


def bumps(pixels: Tensor, at: Tensor) -> Tensor:
    """A drawn point's profile, 1 at ``at`` and a sigma of two pixels: ``pixels`` are numbers of drawn rows or columns.

    ``at`` is a coordinate in the 256-pixel frame; the two shapes are broadcast.
    """
    centres = (pixels.to(at.dtype) + 0.5) * DRAWN_STEP
    return torch.exp(-((centres - at) ** 2) / (2 * (2 * DRAWN_STEP) ** 2))


def _draw_boxes(coords: Tensor, labels: Tensor, cells: Tensor) -> Tensor:
    """``(N, 64, 64)``: +1 inside and -1 outside of each prompt's box, 0 where it has none."""
    has_box = (labels == BOX_LABELS[0]).any(1)
    top_left = (coords * (labels == BOX_LABELS[0])[..., None]).sum(1)
    bottom_right = (coords * (labels == BOX_LABELS[1])[..., None]).sum(1)
    inside = (cells > top_left[:, :, None]) & (cells < bottom_right[:, :, None])  # (N, 2 xy, 64)
    both = (inside[:, 1, :, None] & inside[:, 0, None, :]).to(coords.dtype)
    return (2 * both - 1) * has_box[:, None, None]


class NanoMaskDecoder(MaskDecoder):  # type: ignore[misc]  # untyped library
    """SAM's mask decoder, with the encoder's finer features added while it upscales (as SAM 2 does)."""

    def __init__(self, spec: Architecture) -> None:
        transformer = TwoWayTransformer(depth=2, embedding_dim=spec.dim, num_heads=4, mlp_dim=2 * spec.dim)
        super().__init__(
            transformer_dim=spec.dim,
            transformer=transformer,
            num_multimask_outputs=2,  # plus SAM's single-mask token: three in all
            activation=nn.ReLU,
            iou_head_hidden_dim=spec.dim,
        )
        self.skip8 = nn.Conv2d(2 * spec.width, spec.dim // 4, 1)
        self.skip4 = nn.Conv2d(spec.width, spec.dim // 8, 1)

    def decode(
        self, features: Pyramid, image_index: Tensor, position: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(N, 3, 64, 64)`` and predicted IoU ``(N, 3)`` of N prompts on the images that they point at."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
        source = features.s16[image_index] + dense
        hidden, source = self.transformer(source, position.expand(len(source), -1, -1, -1), tokens)
        fine = self._upscale(source.transpose(1, 2).unflatten(2, (GRID, GRID)), features, image_index)
        mlps = self.output_hypernetworks_mlps
        kernels = torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)  # (N, 3, dim / 8)
        logits = (kernels @ fine.flatten(2)).unflatten(2, (MASK_SIZE, MASK_SIZE))
        return logits, self.iou_prediction_head(hidden[:, 0])

    def _upscale(self, source: Tensor, features: Pyramid, image_index: Tensor) -> Tensor:
        """``(N, dim, 16, 16)`` -> ``(N, dim / 8, 64, 64)``."""
        first, norm, act1, second, act2 = self.output_upscaling
        middle = act1(norm(first(source) + self.skip8(features.s8)[image_index]))
        return act2(second(middle) + self.skip4(features.s4)[image_index])


class NanoSam(Sam):  # type: ignore[misc]  # untyped library
    """SAM put together from the parts above; ``preprocess`` (normalise, pad) is SAM's."""

    image_encoder: Any
    prompt_encoder: Any
    mask_decoder: Any

    def __init__(self, spec: Architecture) -> None:
        super().__init__(NanoEncoder(spec), NanoPromptEncoder(spec), NanoMaskDecoder(spec))
        self.spec = spec

    def prompted(self, features: Pyramid, image_index: Tensor, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(N, 3, 64, 64)`` and IoU ``(N, 3)`` for prompts in the 256-pixel frame (see ``embed``)."""
        sparse, dense = self.prompt_encoder.embed(coords, labels, features, image_index)
        position = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder.decode(features, image_index, position, sparse, dense)
