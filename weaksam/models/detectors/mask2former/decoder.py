"""Take the parts of transformers' Mask2Former behind the backbone, and let them do no work that nobody reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerPreTrainedModel
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskPredictor,
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
    Mask2FormerTransformerModule,
)

from weaksam.models.backbones.fast_convolutions import fuse_convolutions
from weaksam.models.detectors.mask2former.random_weights import draw_first_weights
from weaksam.models.detectors.mask2former.settings import Mask2FormerSettings
from weaksam.models.full_precision import full_precision
from weaksam.models.query.deformable_attention import Sizes, deformable_attention
from weaksam.structures.devices import numbers_on


class MaskDecoder(Mask2FormerPreTrainedModel):
    """Pixel decoder, transformer and class layer of transformers' Mask2Former."""

    def __init__(self, config: Mask2FormerConfig, channels: list[int], num_classes: int) -> None:
        """``channels``: depth of the four maps of the backbone, finest first."""
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, feature_channels=channels)
        self.transformer_module = Mask2FormerTransformerModule(in_features=config.feature_size, config=config)
        self.class_predictor = nn.Linear(config.hidden_dim, num_classes + 1)
        self.post_init()


def mask_decoder(
    settings: Mask2FormerSettings, channels: list[int], num_classes: int, *, plain: bool = False
) -> MaskDecoder:
    """The parts behind the backbone; unless ``plain``, their modules are exchanged for those below.

    These compute the same, but for the masks of every query and layer, of which they give the embeddings.
    """
    config = Mask2FormerConfig(
        feature_size=settings.channels,
        hidden_dim=settings.channels,
        mask_feature_size=settings.channels,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers + 1,  # transformers counts the first prediction, before any layer
        encoder_feedforward_dim=settings.encoder_width,
        dim_feedforward=settings.decoder_width,
        num_attention_heads=settings.num_heads,
        num_queries=settings.num_queries,
    )
    decoder = MaskDecoder(config, channels, num_classes)
    draw_first_weights(decoder.pixel_decoder, decoder.transformer_module.decoder, decoder.class_predictor)
    if not plain:
        _exchange(decoder)
    return decoder


def _exchange(decoder: MaskDecoder) -> None:
    """Exchange modules in place; weights keep their names and values."""
    fuse_convolutions(decoder)
    transformer = decoder.transformer_module.decoder
    projection = decoder.pixel_decoder.mask_projection
    projection.__class__ = UnusedProjection
    transformer.mask_predictor.__class__ = EmbeddingPredictor
    transformer.mask_predictor.projection = (projection,)
    for layer in transformer.layers:
        layer.cross_attn.__class__ = MaskedAttention
    for layer in decoder.pixel_decoder.encoder.layers:
        layer.self_attn.__class__ = SampledAttention


class UnusedProjection(nn.Conv2d):
    """The last 1x1 convolution of the pixel decoder, which keeps its weights and leaves the map as it is.

    A mask is the product of an embedding with every cell that it projects: `EmbeddingPredictor` projects the embeddings
    instead, which are a thousandth of the cells.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The map ``(B, C, h, w)`` itself."""
        return input


class EmbeddingPredictor(Mask2FormerMaskPredictor):
    """Gives a query's mask as its embedding, and where the next layer may look from maps of that layer's own size.

    Interpolating the features and then multiplying is the same as the other way round, with a fraction of the cells.
    The masks themselves are computed where a loss or a detection reads them.
    """

    projection: tuple[nn.Conv2d]
    """That of the pixel decoder, as weights; a tuple, so that it is not registered a second time."""

    def forward(
        self, outputs: Tensor, pixel_embeddings: Tensor, attention_mask_target_size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of ``outputs`` (Q, B, D), and bool ``(B * heads, Q, h * w)``: where the next layer may not look.

        Float32 ``(B, Q, C + 1)``; their product with the ``pixel_embeddings`` (B, C, H, W) before the projection, plus
        their last column, are the masks.
        """
        (projection,) = self.projection
        embeddings = self.mask_embedder(outputs.transpose(0, 1))
        with torch.autocast(outputs.device.type, enabled=False):
            assert projection.bias is not None
            columns = torch.cat([projection.weight.flatten(1), projection.bias[:, None]], dim=1)  # (C', C + 1)
            embeddings = full_precision(embeddings) @ columns
        with torch.no_grad():
            size = tuple(attention_mask_target_size)
            features = F.interpolate(pixel_embeddings, size=size, mode="bilinear", align_corners=False)
            outside = embeddings[..., :-1] @ full_precision(features.flatten(2)) < -embeddings[..., -1:]
            return embeddings, outside.repeat_interleave(self.num_heads, dim=0)


class MaskedAttention(nn.MultiheadAttention):
    """Attention that does not compute the mean weights, which transformers asks for and never reads."""

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, key_padding_mask: None
    ) -> tuple[Tensor, None]:
        """Attention output ``(Q, B, D)`` of ``query`` (Q, B, D), ``key`` and ``value`` (S, B, D), and None."""
        output, _ = super().forward(query, key, value, attn_mask=attn_mask, need_weights=False)
        return output, None


class SampledAttention(Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention):
    """Multi-scale deformable attention by the project's one function of it."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes_list: Sizes = (),
        level_start_index: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, None]:
        """Output ``(B, S, D)`` of the cells ``hidden_states`` (B, S, D) of all levels, and None.

        ``reference_points`` (B, S, L, 2). The maps have no padding, so that the attention mask says nothing.
        """
        assert encoder_hidden_states is not None and reference_points is not None
        queries = self.with_pos_embed(hidden_states, position_embeddings)
        shape = (self.n_heads, self.n_levels, self.n_points)
        values = self.value_proj(encoder_hidden_states).unflatten(-1, (self.n_heads, -1))
        offsets = self.sampling_offsets(queries).unflatten(-1, (*shape, 2))
        weights = self.attention_weights(queries).unflatten(-1, (self.n_heads, -1)).softmax(-1).unflatten(-1, shape[1:])
        lengths = numbers_on(offsets.device, [[w, h] for h, w in spatial_shapes_list], offsets.dtype)
        locations = reference_points[:, :, None, :, None] + offsets / lengths[:, None]
        return self.output_proj(deformable_attention(values, spatial_shapes_list, locations, weights)), None
