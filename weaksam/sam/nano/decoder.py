"""Decode many prompts on one photo with sam_nano, computing once what they share; equal to ``NanoSam.prompted``.

Rewritten without changing the answers beyond float rounding:

* An attention between tokens and the 256 image cells never projects the cells: the tokens' side is multiplied into the
  cells' projection instead, ``q . (K x) = (q K) . x``, so that a prompt costs heads x tokens = 24 columns, not 64. What
  the image features and the positional encoding add is projected once a photo.
* A prompt's drawing enters with the 16 channels before its last convolution, never as a ``(dim, 16, 16)`` map. A lone
  point's is computed in the 7 x 7 cells around it: everywhere else its bump is below 2e-8 (six sigmas).
* Padding slots are one token that counts as often as there are slots, since equal tokens stay equal.
* Transposed convolutions of stride 2 are matrix products, laid out so that whole rows of pixels are moved, not pixels.
* Cells are visited in parts that fit the cache: written by one attention and read at once by the next.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.sam.nano.model import GRID, MASK_SIZE, STRIDE, NanoSam, Pyramid, bumps, draw_prompts
from weaksam.sam.prompts import PADDING

CELLS = GRID * GRID
DRAWN = MASK_SIZE // GRID  # drawn pixels across one cell
WINDOW = 7  # cells across that hold all of a point's bump
PART = 8  # prompts whose cells (128 KiB each) and pixels (256 KiB each) stay in the cache


class SharedFeatures(NamedTuple):
    """What every prompt on a photo shares.

    ``source (256, dim)``: image features with the bias of the drawing; ``keys``, ``values``, ``queries (256, c)``:
    their projections in the first block. ``skip8 (2, 1, 256, dim / 2)`` and ``skip4 (4, 1, 512, dim / 4)``: the finer
    features with the transposed convolutions' biases, laid out as ``NanoDecoder.draw`` computes.
    """

    source: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor
    skip8: Tensor
    skip4: Tensor


class Decoded(NamedTuple):
    """P prompts after the transformer: ``cells (n, 256, dim)`` by parts, ``tokens (P, 4, dim)`` and ``iou (P, 3)``.

    The tokens are the decoder's own: that of the IoU, then those of the masks.
    """

    cells: list[Tensor]
    tokens: Tensor
    iou: Tensor


class TokenSide:
    """The tokens' side of an attention with cells that are what prompts share plus ``y (P, 256, Y)``, by parts.

    ``spread (P, heads T, c)``: projected tokens, zero outside of their head; ``weight (c, Y)``: the projection of y;
    ``fixed (256, c)``: that of what is shared.
    """

    def __init__(self, spread: Tensor, weight: Tensor, fixed: Tensor, part: int) -> None:
        self.spread = spread.flatten(0, 1).split(part * spread.shape[1])
        self.folded = (spread @ weight).split(part)
        self.fixed = fixed.T

    def scores(self, cells: Tensor, part: int) -> Tensor:
        """``(n, heads T, 256)`` for a part's n prompts, whose y is ``cells (n, 256, Y)``."""
        folded = self.folded[part]
        scores = torch.mm(self.spread[part], self.fixed).view(folded.shape[0], folded.shape[1], CELLS)
        return scores.baddbmm_(folded, cells.transpose(1, 2))


class Heads:
    """How ``c`` channels are divided among attention heads."""

    def __init__(self, heads: int, channels: int, device: torch.device) -> None:
        self.num, self.scale = heads, (channels // heads) ** -0.5
        self.mask = torch.eye(heads, device=device).repeat_interleave(channels // heads, 1)[:, None]  # (heads, 1, c)

    def spread(self, x: Tensor) -> Tensor:
        """Tokens ``(P, T, c)`` once per head, zero in the other heads' channels: ``(P, heads T, c)``."""
        return (x[:, None] * self.mask).flatten(1, 2)

    def gather(self, x: Tensor) -> Tensor:
        """From ``(P, heads T, c)`` the channels of each row's own head: ``(P, T, c)``."""
        return (x.unflatten(1, (self.num, -1)) * self.mask).sum(1)


class TokenToImage:
    """An attention by which tokens read cells; ``keys`` and ``values (256, c)`` stand for what the cells share."""

    def __init__(
        self,
        heads: Heads,
        attention: Any,
        tokens: Tensor,
        keys: Tensor,
        values: Tensor | None = None,
        mix: Tensor | None = None,
        part: int = PART,
    ) -> None:
        self.heads, self.attention, self.values = heads, attention, values
        to_keys, self.to_values = (mixed(layer.weight, mix) for layer in (attention.k_proj, attention.v_proj))
        self.side = TokenSide(heads.spread(attention.q_proj(tokens) * heads.scale), to_keys, keys, part)

    def __call__(self, cells: Tensor, part: int) -> Tensor:
        """What a part's prompts read from ``cells (n, 256, Y)``: ``(n, heads T, Y)``, and ``c`` of what is shared."""
        share = torch.softmax(self.side.scores(cells, part), -1)
        read = torch.bmm(share, cells)
        return read if self.values is None else torch.cat([read, share @ self.values], -1)

    def finished(self, read: Tensor) -> Tensor:
        """The attention's output ``(P, T, dim)`` from all that was read."""
        values = F.linear(read[..., : self.to_values.shape[1]], self.to_values)
        if self.values is not None:
            values = values + read[..., self.to_values.shape[1] :]
        return self.attention.out_proj(self.heads.gather(values) + self.attention.v_proj.bias)


class ImageToToken:
    """An attention by which cells read tokens, with the residual and the norm after it."""

    def __init__(
        self, heads: Heads, block: Any, tokens: Tensor, start: Tensor, repeats: int, queries: Tensor, mix: Tensor | None
    ) -> None:
        attention = block.cross_attn_image_to_token
        self.heads, self.norm, self.repeats, self.mix = heads.num, block.norm4, repeats, mix
        spread = heads.spread(attention.k_proj(tokens + start) * heads.scale)
        self.side = TokenSide(spread, mixed(attention.q_proj.weight, mix), queries, PART)
        # The shares of a head sum to 1, so that each head brings its part of the bias
        out = attention.out_proj
        update = F.linear(heads.spread(attention.v_proj(tokens)), out.weight, out.bias / heads.num)
        if mix is not None:
            update = torch.cat([update, mix.T.expand(len(update), -1, -1)], dim=1)
        self.update = update.split(PART)

    def __call__(self, cells: Tensor, part: int, source: Tensor) -> Tensor:
        """New cells ``(n, 256, dim)``; ``source (256, dim)`` is what the old ones share where these are only drawn."""
        scores = self.side.scores(cells, part)
        num, rows, _ = scores.shape
        by_head = scores.view(num, self.heads, -1, CELLS)
        if self.repeats > 1:
            by_head[:, :, -1].add_(math.log(self.repeats))
        share = torch.softmax(by_head, 2).view(num, rows, CELLS)
        if self.mix is None:
            new = cells.baddbmm_(share.transpose(1, 2), self.update[part])
        else:
            share = torch.cat([share, cells.transpose(1, 2)], dim=1)
            new = torch.baddbmm(source.expand(num, -1, -1), share.transpose(1, 2), self.update[part])
        norm = self.norm
        return torch.layer_norm(new, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class NanoDecoder:
    """The prompt encoder and mask decoder of ``model``, its weights laid out anew (later changes are not followed)."""

    def __init__(self, model: NanoSam) -> None:
        self.prompts, self.decoder = model.prompt_encoder, model.mask_decoder
        self.transformer = self.decoder.transformer
        final = self.transformer.final_attn_token_to_image
        self.heads = Heads(final.num_heads, final.internal_dim, model.pixel_mean.device)
        position = self.prompts.get_dense_pe()[0].flatten(1).T.contiguous()  # (256, dim)
        self.position = position
        self.mix = self.prompts.mask_downscaling[6].weight.flatten(1)  # (dim, 16): the drawing's last convolution
        self.blank = self._drawn_channels(position.new_zeros(1, DRAWN, DRAWN))[0]  # (16,)
        into = [*(block.cross_attn_token_to_image for block in self.transformer.layers), final]
        back = [block.cross_attn_image_to_token for block in self.transformer.layers]
        self.keys = [F.linear(position, attention.k_proj.weight) for attention in into]
        self.queries = [attention.q_proj(position) for attention in back]
        first, _, _, second, _ = self.decoder.output_upscaling
        # (in, out, dy, dx) -> (dy, in, dx out)
        self.up1, self.up2 = (w.permute(2, 0, 3, 1).flatten(2).contiguous() for w in (first.weight, second.weight))
        layers = zip(*(mlp.layers for mlp in self.decoder.output_hypernetworks_mlps), strict=True)
        self.hyper = [(torch.stack([m.weight.T for m in row]), torch.stack([m.bias for m in row])) for row in layers]

    def shared(self, features: Pyramid) -> SharedFeatures:
        """What all prompts on the one photo of ``features`` share."""
        block = self.transformer.layers[0]
        source = features.s16[0].flatten(1).T + self.prompts.mask_downscaling[6].bias
        placed = source + self.position
        first, _, _, second, _ = self.decoder.output_upscaling
        skip8 = (self.decoder.skip8(features.s8)[0] + first.bias[:, None, None]).unflatten(1, (GRID, 2))
        skip4 = (self.decoder.skip4(features.s4)[0] + second.bias[:, None, None]).unflatten(1, (GRID, 2, 2))
        return SharedFeatures(
            source.contiguous(),
            F.linear(placed, block.cross_attn_token_to_image.k_proj.weight),
            F.linear(source, block.cross_attn_token_to_image.v_proj.weight),
            block.cross_attn_image_to_token.q_proj(placed),
            skip8.permute(2, 1, 3, 0).reshape(2, 1, CELLS, -1),
            skip4.permute(3, 2, 1, 4, 0).reshape(4, 1, 2 * CELLS, -1),
        )

    def decode(self, features: Pyramid, shared: SharedFeatures, coords: Tensor, labels: Tensor) -> Decoded:
        """Run P >= 1 prompts, ``coords (P, K, 2)`` in the 256-pixel frame with ``labels (P, K)``, but draw no mask."""
        drawn = self.drawing(coords, labels)
        cells = list(drawn.split(PART))
        coords, labels, repeats = merge_padding(coords, labels)
        own = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        slots = self.prompts.tokens(coords, labels, features, labels.new_zeros(len(labels)))
        start = torch.cat([own.expand(len(labels), -1, -1), slots], dim=1)  # also the tokens' positional encoding
        layers = self.transformer.layers

        tokens = self._among_tokens(layers[0], start, start, repeats)
        into = layers[0].cross_attn_token_to_image
        to_image = TokenToImage(self.heads, into, tokens + start, shared.keys, shared.values, self.mix, len(tokens))
        tokens = tokens + to_image.finished(to_image(drawn, 0))
        for number, block in enumerate(layers):
            tokens = block.norm2(tokens)
            tokens = block.norm3(tokens + block.mlp(tokens))
            queries, mix = (shared.queries, self.mix) if number == 0 else (self.queries[number], None)
            to_token = ImageToToken(self.heads, block, tokens, start, repeats, queries, mix)
            if number + 1 < len(layers):
                tokens = self._among_tokens(layers[number + 1], tokens, start, repeats)
                into = layers[number + 1].cross_attn_token_to_image
            else:  # the prompts' own tokens are not used after the last attention
                tokens, start = tokens[:, : len(own)], start[:, : len(own)]
                into = self.transformer.final_attn_token_to_image
            to_image = TokenToImage(self.heads, into, tokens + start, self.keys[number + 1])
            read = []
            for part, old in enumerate(cells):
                cells[part] = to_token(old, part, shared.source)
                read.append(to_image(cells[part], part))
            tokens = tokens + to_image.finished(torch.cat(read))
        tokens = self.transformer.norm_final_attn(tokens)
        return Decoded(cells, tokens, self.decoder.iou_prediction_head(tokens[:, 0]))

    def draw(self, shared: SharedFeatures, decoded: Decoded, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """By parts, the prompts ``(n,)`` that are ``wanted (P,)``, and their mask logits ``(n, 3, 64, 64)``."""
        kernels = self._kernels(decoded.tokens)
        for part, cells in enumerate(decoded.cells):
            rows = wanted[part * PART : part * PART + PART].nonzero()[:, 0]
            if len(rows):
                cells = cells if len(rows) == len(cells) else cells[rows]
                yield part * PART + rows, self._upscaled(shared, cells, kernels[part * PART + rows])

    def _upscaled(self, shared: SharedFeatures, cells: Tensor, kernels: Tensor) -> Tensor:
        """Logits ``(n, 3, 64, 64)`` of ``cells (n, 256, dim)`` with ``kernels (n, 3, c)``."""
        num, norm = len(cells), self.decoder.output_upscaling[1]
        channels = self.up2.shape[1]
        middle = cells.new_empty(2, num * CELLS, 2 * channels)  # (dy, n gy gx, dx C)
        for dy in (0, 1):
            torch.mm(cells.view(num * CELLS, -1), self.up1[dy], out=middle[dy])
        middle.view(2, num, CELLS, -1).add_(shared.skip8)
        middle = torch.layer_norm(middle.view(-1, channels), (channels,), norm.weight, norm.bias, norm.eps).relu_()
        fine = cells.new_empty(2, len(middle), self.up2.shape[2])  # (ey, dy n gy gx dx, ex c)
        for ey in (0, 1):
            torch.mm(middle, self.up2[ey], out=fine[ey])
        fine = fine.view(4, num, 2 * CELLS, -1).add_(shared.skip4).relu_()
        pixels = fine.view(4, num, 4 * CELLS, -1).transpose(2, 3)  # x is now in order: gx dx ex
        logits = torch.matmul(kernels, pixels).view(2, 2, num, -1, GRID, MASK_SIZE)  # (ey, dy, n, 3, gy, x)
        return logits.permute(2, 3, 4, 1, 0, 5).reshape(num, -1, MASK_SIZE, MASK_SIZE)

    def _kernels(self, tokens: Tensor) -> Tensor:
        """The hyper-networks' ``(P, 3, dim / 8)`` of the mask tokens."""
        x = tokens[:, 1 : 1 + len(self.hyper[0][1])].transpose(0, 1)
        for number, (weight, bias) in enumerate(self.hyper):
            x = torch.baddbmm(bias[:, None], x.relu() if number else x, weight)
        return x.transpose(0, 1)

    def _among_tokens(self, block: Any, tokens: Tensor, start: Tensor, repeats: int) -> Tensor:
        """A block's self-attention of ``(P, T, dim)`` with its norm, the last token counting ``repeats`` times."""
        attention = block.self_attn
        placed = tokens if block.skip_first_layer_pe else tokens + start
        q, k, v = (
            project(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for project, x in ((attention.q_proj, placed), (attention.k_proj, placed), (attention.v_proj, tokens))
        )
        counts = None
        if repeats > 1:
            counts = tokens.new_zeros(tokens.shape[1], tokens.shape[1])
            counts[:, -1] = math.log(repeats)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=counts).transpose(1, 2).flatten(2)
        out = attention.out_proj(out)
        return block.norm1(out if block.skip_first_layer_pe else tokens + out)

    def drawing(self, coords: Tensor, labels: Tensor) -> Tensor:
        """The drawn prompts' channels ``(P, 256, 16)`` before ``mask_downscaling``'s last convolution."""
        if not bool((labels[:, 1:] == PADDING).all() and (labels[:, 0] <= 1).all()):
            split = (GRID, DRAWN)
            drawn = draw_prompts(coords, labels)[:, 0].unflatten(2, split).unflatten(1, split)  # (P, gy, ., gx, .)
            return self._drawn_channels(drawn.transpose(2, 3).reshape(-1, DRAWN, DRAWN)).view(len(coords), CELLS, -1)
        point, sign = coords[:, 0], (labels[:, 0] == 1).float() - (labels[:, 0] == 0).float()
        corner = ((point / STRIDE).long() - WINDOW // 2).clamp(0, GRID - WINDOW)  # (P, 2) xy
        pixels = (corner * DRAWN)[..., None] + torch.arange(WINDOW * DRAWN, device=point.device)  # (P, 2, 28)
        column, row = bumps(pixels, point[..., None]).unflatten(2, (WINDOW, 1, DRAWN)).unbind(1)  # (P, 7, 1, 4)
        row = (row * sign[:, None, None, None]).transpose(2, 3)  # (P, 7, 4, 1)
        patches = row[:, :, None] * column[:, None]  # (P, 7, 7, 4, 4)
        near = torch.arange(WINDOW, device=point.device)
        cell = (corner[:, 1:, None] + near[:, None]) * GRID + corner[:, :1, None] + near  # (P, 7, 7)
        channels = self.blank.expand(len(point), CELLS, -1).clone()
        cell = cell.view(len(point), -1, 1).expand(-1, -1, channels.shape[2])
        return channels.scatter_(1, cell, self._drawn_channels(patches.view(-1, DRAWN, DRAWN)).view(cell.shape))

    def _drawn_channels(self, patches: Tensor) -> Tensor:
        """``mask_downscaling`` but for its last convolution, on drawn cells ``(M, 4, 4)``: ``(M, 16)``."""
        first, norm1, _, second, norm2, _, _ = self.prompts.mask_downscaling
        x = patches.view(-1, 2, 2, 2, 2).transpose(2, 3).reshape(-1, 4)
        x = F.linear(x, first.weight.flatten(1), first.bias)
        x = F.layer_norm(x, x.shape[1:], norm1.weight, norm1.bias, norm1.eps).relu_().view(len(patches), -1)
        x = F.linear(x, second.weight.permute(0, 2, 3, 1).flatten(1), second.bias)
        return F.layer_norm(x, x.shape[1:], norm2.weight, norm2.bias, norm2.eps).relu_()


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Inside, numbers below 1e-38 are 0: sharp attention makes many, and processors take a hundred times as long."""
    before = bool(torch.tensor([1e-39]) * 1.0 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def mixed(weight: Tensor, mix: Tensor | None) -> Tensor:
    """A projection ``(c, dim)`` of cells ``mix @ y``, as a projection of y; ``mix`` None is the identity."""
    return weight if mix is None else weight @ mix


def merge_padding(coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """``coords (P, K, 2)`` and ``labels (P, K)`` with the slots that are padding in every prompt as one, at the end.

    The third value is the number of slots that the last one stands for; 1 where nothing was merged.
    """
    padding = (labels == PADDING).all(0)
    repeats = int(padding.sum())
    if repeats < 2:
        return coords, labels, 1
    keep = torch.cat([(~padding).nonzero()[:, 0], padding.nonzero()[:1, 0]])
    return coords[:, keep], labels[:, keep], repeats
