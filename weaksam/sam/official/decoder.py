"""Decode prompts as SAM's mask decoder does, computing once what the prompts of a photo share.

Per prompt the plain decoder projects all N image positions (4,096 in SAM) ten times from C channels and enlarges the
result, 1.75 GMAC. Yet what a prompt adds to the image side is, at every position, a mix of its few tokens: the output
of "image attends to tokens" is ``weights (N, R) @ values (R, C)`` with R = heads x tokens (56 for one point), and layer
norm only centres the channels and rescales each position. With U the image, V the tokens' values, w the weights and d
one over the standard deviation, all per prompt but for U:

    keys1 = d1 (U + w1 V1) G1 + b1,    keys2 = d2 (d1 (U' + w1 V1') + c + w2 V2) G2 + b2

so that any linear map W of the keys splits into a part of the photo (U W, computed once) and parts of rank R
(w V W). Variances split the same way into Gram matrices. Nothing of size N x C is ever made for a prompt. The factoring
is this project's own; its answers are SAM's up to float rounding (docs/fast_decoding.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention
from torch import Tensor
from torch.nn import functional as F

MAX_TOKENS = 16  # beyond it (11 points in one prompt) the plain decoder is as fast
PROMPTS_AT_ONCE = 16  # drawn together on an accelerator
BAND = 1024  # positions drawn together on a CPU: a megabyte or two, which the cache holds


@dataclass(frozen=True)
class PhotoProjection:
    """What one linear map W makes of the photo, per head: ``image (H, d, N)``, and of its ``positions``."""

    image: Tensor
    positions: Tensor | None = None


@dataclass(frozen=True)
class PhotoSide:
    """All that the decoder needs of one photo, the same for each of its prompts.

    ``k1, v1, q1``: the first layer's projections ``(H, d, N)``. ``norm1`` and ``norm2``: squared length of the centred
    image ``(N,)`` before the first and second norm; ``values1``, ``cross1``, ``cross2``: the image along the tokens'
    value directions ``(H, d, N)``; ``along_c``: the image along the constant c ``(N,)``. ``k2, v2, q2, kf, vf``:
    projections of later keys; ``up``: the first upscaling's ``(N, 4 C')``.
    """

    k1: Tensor
    v1: Tensor
    q1: Tensor
    norm1: Tensor
    values1: Tensor
    norm2: Tensor
    cross1: Tensor
    cross2: Tensor
    along_c: Tensor
    k2: PhotoProjection
    v2: PhotoProjection
    q2: PhotoProjection
    kf: PhotoProjection
    vf: PhotoProjection
    up: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class PromptSide:
    """What P prompts (n tokens each, R = H n) add to the photo: all that the masks are drawn from.

    ``hidden (P, n, C)`` tokens after the last norm; ``weights1``, ``weights2 (P, R, N)`` attention of positions to
    tokens; ``values1``, ``values2 (P, R, C)`` what a token's head adds there, centred; ``scale1`` and ``scale2``
    ``(P, 1, N)``.
    """

    hidden: Tensor
    weights1: Tensor
    weights2: Tensor
    values1: Tensor
    values2: Tensor
    scale1: Tensor
    scale2: Tensor


@dataclass(frozen=True)
class LayerSide:
    """What P prompts add to the image side in one two-way layer (R = H n).

    ``head_values (P, H, n, d)``: the tokens' values; ``weights (P, R, N)``: attention of positions to tokens;
    ``values (P, R, C)``: what a token's head adds there, centred; ``scale (P, 1, N)``: one over the standard deviation
    before the layer's last norm.
    """

    head_values: Tensor
    weights: Tensor
    values: Tensor
    scale: Tensor


class FastDecoder:
    """Answers prompts on one photo as ``decoder`` does, up to float rounding; the decoder's weights are read once.

    Only for SAM's own architecture: two two-way layers, a dense embedding that is the same at every position (no mask
    prompt). ``photo`` once per photo, then ``prompts`` for tokens and predicted IoU, ``logits`` for those worth
    drawing.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        self.decoder = decoder
        self.heads = decoder.transformer.num_heads
        self.layers = first, second = tuple(decoder.transformer.layers)
        self.final_attention = decoder.transformer.final_attn_token_to_image
        dim = decoder.transformer_dim
        weight = decoder.iou_token.weight
        centring = torch.eye(dim, dtype=weight.dtype, device=weight.device) - 1.0 / dim
        self.gain1 = torch.diag(first.norm4.weight)  # (C, C)
        self.out1 = first.cross_attn_image_to_token.out_proj.weight.T @ centring  # (128, C), centred
        self.out2 = second.cross_attn_image_to_token.out_proj.weight.T @ centring
        # A row that the first norm's gain stretched, centred for the second norm; then also stretched by its gain
        self.inner = self.gain1 @ centring
        self.outer = self.inner @ torch.diag(second.norm4.weight)
        self.gain2 = torch.diag(second.norm4.weight)
        self.constant = (first.norm4.bias + second.cross_attn_image_to_token.out_proj.bias) @ centring  # c, (C,)
        conv = decoder.output_upscaling[0]
        self.up_weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (C, 4 C'), sub-pixels first
        self.up_constant = self.constant @ self.gain2 @ self.up_weight
        self.up_shift = second.norm4.bias @ self.up_weight + conv.bias.repeat(4)
        conv = decoder.output_upscaling[3]
        self.up2_weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (C', 4 C'')
        self.up2_bias = conv.bias.repeat(4)

    @staticmethod
    def fits(decoder: MaskDecoder) -> bool:
        """Whether ``decoder`` has the two layers that this class takes apart."""
        return len(decoder.transformer.layers) == 2

    # The photo

    def photo(self, features: Tensor, dense: Tensor, position: Tensor) -> PhotoSide:
        """The shared part of a photo: ``features (1, C, h, w)``, ``dense`` broadcastable, ``position (1, C, h, w)``."""
        grid = (features.shape[2], features.shape[3])
        image = (features + dense).flatten(2)[0].T  # (N, C)
        positions = position.flatten(2)[0].T
        (first, second), final = self.layers, self.final_attention
        to_image1, to_tokens1 = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        to_image2, to_tokens2 = second.cross_attn_token_to_image, second.cross_attn_image_to_token
        # U: the image before the first norm, centred; U': the same on its way into the second
        plain = image + to_tokens1.out_proj.bias
        plain = plain - plain.mean(1, keepdim=True)
        inner, outer = plain @ self.inner, plain @ self.outer
        gained = plain @ self.gain1
        return PhotoSide(
            k1=self._heads(to_image1.k_proj(image + positions)),
            v1=self._heads(to_image1.v_proj(image)),
            q1=self._heads(to_tokens1.q_proj(image + positions)),
            norm1=plain.square().sum(1),
            values1=self._heads(plain @ self.out1.T),
            norm2=inner.square().sum(1),
            cross1=self._heads(inner @ (self.out1 @ self.inner).T),
            cross2=self._heads(inner @ self.out2.T),
            along_c=inner @ self.constant,
            k2=self._shared(gained, positions, to_image2.k_proj),
            v2=self._shared(gained, None, to_image2.v_proj),
            q2=self._shared(gained, positions, to_tokens2.q_proj),
            kf=self._shared(outer, positions, final.k_proj),
            vf=self._shared(outer, None, final.v_proj),
            up=outer @ self.up_weight,
            grid=grid,
        )

    def _heads(self, x: Tensor) -> Tensor:
        """``(N, H d)`` -> ``(H, d, N)``."""
        return x.T.unflatten(0, (self.heads, -1)).contiguous()

    def _shared(self, image: Tensor, positions: Tensor | None, linear: torch.nn.Linear) -> PhotoProjection:
        weight = linear.weight.T
        return PhotoProjection(
            self._heads(image @ weight), None if positions is None else self._heads(positions @ weight)
        )

    # The prompts

    def prompts(self, photo: PhotoSide, sparse: Tensor) -> tuple[PromptSide, Tensor]:
        """Tokens of P prompts ``sparse (P, K, C)`` -> their side, and predicted IoU ``(P, 3)`` of masks 1 to 3."""
        decoder = self.decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
        queries, layer1 = self._first_layer(photo, tokens)
        queries, layer2 = self._second_layer(photo, tokens, queries, layer1)
        values1, values2 = layer1.values @ self.outer, layer2.values @ self.gain2
        side = PromptSide(queries, layer1.weights, layer2.weights, values1, values2, layer1.scale, layer2.scale)
        # Last: the tokens look at the image once more
        query = self._by_head(self.final_attention.q_proj(queries + tokens), scaled=True)
        hidden = queries + self._final(photo, side, query)
        side = replace(side, hidden=decoder.transformer.norm_final_attn(hidden))
        return side, decoder.iou_prediction_head(side.hidden[:, 0])[:, 1:]

    def _first_layer(self, photo: PhotoSide, tokens: Tensor) -> tuple[Tensor, LayerSide]:
        """The first two-way layer on ``tokens (P, n, C)``: the image side is the photo's alone."""
        layer = self.layers[0]
        queries = layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
        attention = layer.cross_attn_token_to_image
        query = self._by_head(attention.q_proj(queries + tokens), scaled=True)
        scores = self._scores(photo.k1, query).softmax(-1)
        queries = layer.norm2(queries + self._out(attention, self._gather(photo.v1, scores)))
        queries = layer.norm3(queries + layer.mlp(queries))
        attention = layer.cross_attn_image_to_token
        key = self._by_head(attention.k_proj(queries + tokens), scaled=True)
        weights = self._to_tokens(self._scores(photo.q1, key))
        head_values = self._by_head(attention.v_proj(queries))
        values = self._values(head_values, self.out1)
        scale = self._scale1(photo, weights, head_values, values)
        return queries, LayerSide(head_values, weights, values, scale)

    def _second_layer(
        self, photo: PhotoSide, tokens: Tensor, queries: Tensor, layer1: LayerSide
    ) -> tuple[Tensor, LayerSide]:
        """The second two-way layer: the image side is what the first layer made of the photo for each prompt."""
        first, layer = self.layers
        low1 = layer1.values @ self.gain1
        mixed = queries + tokens
        queries = layer.norm1(queries + layer.self_attn(q=mixed, k=mixed, v=queries))
        attention = layer.cross_attn_token_to_image
        query = self._by_head(attention.q_proj(queries + tokens), scaled=True)
        scores = self._later_scores(photo.k2, query, layer1, low1, attention.k_proj).softmax(-1)
        shifted = (first.norm4.bias @ attention.v_proj.weight.T) + attention.v_proj.bias
        gathered = self._later_gather(photo.v2, scores, layer1, low1, attention.v_proj)
        queries = layer.norm2(queries + self._out(attention, gathered, shifted))
        queries = layer.norm3(queries + layer.mlp(queries))
        attention = layer.cross_attn_image_to_token
        key = self._by_head(attention.k_proj(queries + tokens), scaled=True)
        scores = self._later_scores(photo.q2, key, layer1, low1, attention.q_proj)
        constant = (first.norm4.bias @ attention.q_proj.weight.T + attention.q_proj.bias).unflatten(0, (self.heads, -1))
        weights = self._to_tokens(scores.add_(torch.einsum("phnd,hd->phn", key, constant).flatten(1, 2)[..., None]))
        head_values = self._by_head(attention.v_proj(queries))
        values = self._values(head_values, self.out2)
        scale = self._scale2(photo, layer1, weights, head_values, values)
        return queries, LayerSide(head_values, weights, values, scale)

    def _by_head(self, x: Tensor, *, scaled: bool = False) -> Tensor:
        """``(P, n, H d)`` -> ``(P, H, n, d)``, divided by the root of d where ``scaled``."""
        x = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return x / math.sqrt(x.shape[-1]) if scaled else x

    def _scores(self, image: Tensor, tokens: Tensor) -> Tensor:
        """Products ``(P, R, N)`` of projected ``tokens (P, H, n, d)`` with a photo's ``image (H, d, N)``."""
        p, h, n, d = tokens.shape
        products = torch.bmm(tokens.transpose(0, 1).reshape(h, p * n, d), image)  # (H, P n, N)
        return products.unflatten(1, (p, n)).transpose(0, 1).reshape(p, h * n, -1)

    def _gather(self, image: Tensor, weights: Tensor) -> Tensor:
        """Sums ``(P, H, n, d)`` of a photo's ``image (H, d, N)`` under ``weights (P, R, N)``, each head its own."""
        p, h = len(weights), self.heads
        by_head = weights.unflatten(1, (h, -1)).transpose(0, 1).flatten(1, 2)  # (H, P n, N)
        return torch.bmm(by_head, image.transpose(1, 2)).unflatten(1, (p, -1)).transpose(0, 1)

    def _out(self, attention: Attention, gathered: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Through the output projection: ``gathered (P, H, n, d)`` plus ``shift (H d,)`` -> ``(P, n, C)``."""
        return attention.out_proj(gathered.transpose(1, 2).flatten(2) + shift)

    def _to_tokens(self, scores: Tensor) -> Tensor:
        """Softmax of ``(P, R, N)`` over the tokens of each head."""
        return scores.unflatten(1, (self.heads, -1)).softmax(2).flatten(1, 2)

    def _values(self, head_values: Tensor, out: Tensor) -> Tensor:
        """What each head of a token adds to a position, ``(P, R, C)``: ``head_values (P, H, n, d) @ out (H d, C)``."""
        return (head_values @ out.unflatten(0, (self.heads, -1))).flatten(1, 2)

    def _scale1(self, photo: PhotoSide, weights: Tensor, head_values: Tensor, values: Tensor) -> Tensor:
        """One over the standard deviation before the first norm, ``(P, 1, N)``."""
        cross = self._scores(photo.values1, head_values)
        squares = photo.norm1 + (torch.baddbmm(cross, values @ values.mT, weights, beta=2) * weights).sum(1)
        norm = self.layers[0].norm4
        return torch.rsqrt(squares / values.shape[-1] + norm.eps)[:, None]

    def _scale2(
        self, photo: PhotoSide, layer1: LayerSide, weights: Tensor, head_values: Tensor, values: Tensor
    ) -> Tensor:
        """One over the standard deviation before the second norm, ``(P, 1, N)``."""
        weights1, values1 = layer1.weights, layer1.values @ self.inner  # as the second norm sees them
        c, s = self.constant, layer1.scale[:, 0]
        own = torch.baddbmm(self._scores(photo.cross1, layer1.head_values), values1 @ values1.mT, weights1, beta=2)
        linear = torch.einsum("prc,c->pr", values1, c)[..., None]
        first = (own * weights1).sum(1)  # (P, N)
        along = photo.along_c + (linear * weights1).sum(1)
        squares = s * s * (photo.norm2 + first) + 2 * s * along + c.square().sum()
        across = torch.baddbmm(self._scores(photo.cross2, head_values), values @ values1.mT, weights1)
        across = across.mul_(2 * layer1.scale)
        across = across.baddbmm_(values @ values.mT, weights).add_(2 * (values @ c)[..., None])
        squares = squares + (across * weights).sum(1)
        norm = self.layers[1].norm4
        return torch.rsqrt(squares / values1.shape[-1] + norm.eps)[:, None]

    def _later_scores(
        self, shared: PhotoProjection, tokens: Tensor, layer1: LayerSide, values: Tensor, linear: torch.nn.Linear
    ) -> Tensor:
        """Products ``(P, R, N)`` of tokens with a linear map of the keys after the first norm, but for constants."""
        pairs = self._pairs(tokens, values, linear)
        scores = torch.baddbmm(self._scores(shared.image, tokens), pairs, layer1.weights).mul_(layer1.scale)
        return scores if shared.positions is None else scores.add_(self._scores(shared.positions, tokens))

    def _pairs(self, tokens: Tensor, values: Tensor, linear: torch.nn.Linear) -> Tensor:
        """Products ``(P, R, R)`` of projected ``tokens (P, H, n, d)`` with the mapped ``values (P, R, C)``."""
        mapped = self._by_head(values @ linear.weight.T)  # (P, H, R, d)
        return (tokens @ mapped.mT).flatten(1, 2)

    def _later_gather(
        self, shared: PhotoProjection, scores: Tensor, layer1: LayerSide, values: Tensor, linear: torch.nn.Linear
    ) -> Tensor:
        """Sums ``(P, H, n, d)`` of a linear map of the keys after the first norm, but for constants."""
        scaled = scores * layer1.scale
        return self._gather(shared.image, scaled) + self._mixed(scaled, layer1.weights, values, linear)

    def _mixed(self, scaled: Tensor, weights: Tensor, values: Tensor, linear: torch.nn.Linear) -> Tensor:
        """The tokens' share of such sums: ``(scaled @ weights.T) @ (values @ W)``, each head its own columns."""
        mixed = torch.bmm(scaled, weights.mT).unflatten(1, (self.heads, -1))  # (P, H, n, R)
        return mixed @ self._by_head(values @ linear.weight.T)  # (P, H, n, d)

    def _final(self, photo: PhotoSide, side: PromptSide, query: Tensor) -> Tensor:
        """The last attention of tokens to the keys after the second norm: ``(P, n, C)``."""
        attention = self.final_attention
        weight_k, weight_v = attention.k_proj.weight.T, attention.v_proj.weight.T
        constant = self.constant @ self.gain2
        scores = torch.baddbmm(
            self._scores(photo.kf.image, query), self._pairs(query, side.values1, attention.k_proj), side.weights1
        ).mul_(side.scale1)
        scores = scores.baddbmm_(self._pairs(query, side.values2, attention.k_proj), side.weights2)
        level = torch.einsum("phnd,hd->phn", query, (constant @ weight_k).unflatten(0, (self.heads, -1)))
        scores = scores.add_(level.flatten(1, 2)[..., None]).mul_(side.scale2)
        assert photo.kf.positions is not None
        scores = scores.add_(self._scores(photo.kf.positions, query)).softmax(-1).mul_(side.scale2)
        total = scores.sum(-1).unflatten(1, (self.heads, -1))[..., None]  # (P, H, n, 1)
        gathered = self._mixed(scores, side.weights2, side.values2, attention.v_proj)
        gathered = gathered + total * (constant @ weight_v).unflatten(0, (self.heads, 1, -1))
        scores = scores.mul_(side.scale1)
        gathered = gathered + self._gather(photo.vf.image, scores)
        gathered = gathered + self._mixed(scores, side.weights1, side.values1, attention.v_proj)
        shift = self.layers[1].norm4.bias @ weight_v + attention.v_proj.bias
        return self._out(attention, gathered, shift)

    # The masks

    def logits(self, photo: PhotoSide, side: PromptSide, rows: Tensor) -> Tensor:
        """Logits ``(Q, 3, 4 h, 4 w)`` of masks 1 to 3 of the prompts ``rows (Q,)``.

        On a CPU one prompt and a band of the photo at a time, which stays in the cache; elsewhere many at once.
        """
        h, w = photo.grid
        on_cpu = rows.device.type == "cpu"
        at_once, band = (1, max(1, BAND // w)) if on_cpu else (PROMPTS_AT_ONCE, h)
        mlps = self.decoder.output_hypernetworks_mlps[1:]
        kernels = torch.stack([mlp(side.hidden[:, 2 + k]) for k, mlp in enumerate(mlps)], dim=1)  # (P, 3, C'')
        drawn = kernels.new_empty(len(rows), len(mlps), h, 2, 2, w, 2, 2)
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            low = (side.values1[part] @ self.up_weight, side.values2[part] @ self.up_weight)
            for top in range(0, h, band):
                here = slice(top * w, min(top + band, h) * w)
                fine = kernels[part] @ self._fine(photo, side, part, low, here).mT  # (q, 3, 16 n)
                fine = fine.view(len(part), len(mlps), -1, w, 2, 2, 2, 2)
                drawn[start : start + at_once, :, top : top + band] = fine.permute(0, 1, 2, 4, 6, 3, 5, 7)
        return drawn.view(len(rows), len(mlps), 4 * h, 4 * w)

    def _fine(self, photo: PhotoSide, side: PromptSide, rows: Tensor, low: tuple[Tensor, Tensor], at: slice) -> Tensor:
        """The upscaled image of q prompts at n positions: ``(q, 16 n, C'')``, the sub-pixels of sub-pixels in turn."""
        norm, act, act2 = (self.decoder.output_upscaling[i] for i in (1, 2, 4))
        weights1, weights2 = side.weights1[rows, :, at].mT, side.weights2[rows, :, at].mT
        scale1, scale2 = side.scale1[rows, :, at].mT, side.scale2[rows, :, at].mT  # (q, n, 1)
        x = torch.baddbmm(photo.up[at], weights1, low[0]).mul_(scale1)
        x = x.baddbmm_(weights2, low[1]).add_(self.up_constant).mul_(scale2).add_(self.up_shift)
        x = x.view(-1, norm.weight.numel())  # (q 4 n, C')
        x = act(F.layer_norm(x, x.shape[1:], norm.weight, norm.bias, norm.eps))
        x = act2(torch.addmm(self.up2_bias, x, self.up2_weight))
        return x.view(len(rows), -1, self.up2_weight.shape[1] // 4)
