"""Names of Mask2Former's tensors: detectron2's and transformers' published ones, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from weaksam.config import UserError
from weaksam.models.backbones.detectron2_files import resnet_name
from weaksam.models.detectors.first_weights import own_names

_SWIN = "backbone.network.swin."
_PIXELS, _TRANSFORMER = "decoder.pixel_decoder.", "decoder.transformer_module."
_LAYER = _TRANSFORMER + r"decoder.layers.\1."
_CONSTANTS = re.compile(r"criterion\.empty_weight|pixel_(mean|std)|.*\.(num_batches_tracked|relative_position_index)")
"""Names of what the networks compute from their settings."""

_DETECTRON2 = {
    r"sem_seg_head\.pixel_decoder\.transformer\.level_embed": f"{_PIXELS}level_embed",
    r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.norm1": (
        rf"{_PIXELS}encoder.layers.\1.self_attn_layer_norm"
    ),
    r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.norm2": (
        rf"{_PIXELS}encoder.layers.\1.final_layer_norm"
    ),
    r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.linear([12])": (
        rf"{_PIXELS}encoder.layers.\1.fc\2"
    ),
    r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.self_attn": (
        rf"{_PIXELS}encoder.layers.\1.self_attn"
    ),
    r"sem_seg_head\.pixel_decoder\.input_proj": f"{_PIXELS}input_projections",
    r"sem_seg_head\.pixel_decoder\.mask_features": f"{_PIXELS}mask_projection",
    r"sem_seg_head\.pixel_decoder\.(adapter|layer)_1\.norm": rf"{_PIXELS}\1_1.1",
    r"sem_seg_head\.pixel_decoder\.(adapter|layer)_1": rf"{_PIXELS}\1_1.0",
    r"sem_seg_head\.predictor\.(?:query_feat|static_query)": f"{_TRANSFORMER}queries_features",
    r"sem_seg_head\.predictor\.query_embed": f"{_TRANSFORMER}queries_embedder",
    r"sem_seg_head\.predictor\.level_embed": f"{_TRANSFORMER}level_embed",
    r"sem_seg_head\.predictor\.transformer_cross_attention_layers\.(\d+)\.multihead_attn": f"{_LAYER}cross_attn",
    r"sem_seg_head\.predictor\.transformer_cross_attention_layers\.(\d+)\.norm": f"{_LAYER}cross_attn_layer_norm",
    r"sem_seg_head\.predictor\.transformer_self_attention_layers\.(\d+)\.self_attn": f"{_LAYER}self_attn",
    r"sem_seg_head\.predictor\.transformer_self_attention_layers\.(\d+)\.norm": f"{_LAYER}self_attn_layer_norm",
    r"sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.linear([12])": rf"{_LAYER}fc\2",
    r"sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.norm": f"{_LAYER}final_layer_norm",
    r"sem_seg_head\.predictor\.decoder_norm": f"{_TRANSFORMER}decoder.layernorm",
    r"sem_seg_head\.predictor\.mask_embed\.layers\.(\d)": (rf"{_TRANSFORMER}decoder.mask_predictor.mask_embedder.\1.0"),
    r"sem_seg_head\.predictor\.class_embed": "decoder.class_predictor",
    r"backbone\.patch_embed\.proj": f"{_SWIN}embeddings.patch_embeddings.projection",
    r"backbone\.patch_embed\.norm": f"{_SWIN}embeddings.norm",
    r"backbone\.layers\.(\d)\.downsample": rf"{_SWIN}encoder.layers.\1.downsample",
    r"backbone\.layers\.(\d)\.blocks\.(\d+)\.norm1": rf"{_SWIN}encoder.layers.\1.blocks.\2.layernorm_before",
    r"backbone\.layers\.(\d)\.blocks\.(\d+)\.norm2": rf"{_SWIN}encoder.layers.\1.blocks.\2.layernorm_after",
    r"backbone\.layers\.(\d)\.blocks\.(\d+)\.mlp": rf"{_SWIN}encoder.layers.\1.blocks.\2.mlp",
    r"backbone\.layers\.(\d)\.blocks\.(\d+)\.attn\.proj": rf"{_SWIN}encoder.layers.\1.blocks.\2.attention.o_proj",
    r"backbone\.layers\.(\d)\.blocks\.(\d+)\.attn\.relative_position_bias_table": (
        rf"{_SWIN}encoder.layers.\1.blocks.\2.attention.relative_position_bias.relative_position_bias_table"
    ),
    r"backbone\.layers\.(\d)\.blocks\.(\d+)\.attn\.qkv": rf"{_SWIN}encoder.layers.\1.blocks.\2.attention.qkv",
    r"backbone\.norm(\d)": lambda match: f"backbone.network.hidden_states_norms.stage{int(match[1]) + 1}",
}
"""Beginnings of detectron2's names and of ours; what follows is the same."""
_JOINED = {
    r"(.*\.self_attn)\.in_proj_(weight|bias)": ("q_proj", "k_proj", "v_proj"),
    r"(.*\.attention)\.qkv\.(weight|bias)": ("q_proj", "k_proj", "v_proj"),
}
"""Tensors that hold queries, keys and values in one, and the three layers that hold them here."""

_TRANSFORMERS = {
    r"model\.pixel_level_module\.decoder\.": _PIXELS,
    r"model\.transformer_module\.": _TRANSFORMER,
    r"class_predictor\.": "decoder.class_predictor.",
    r"model\.pixel_level_module\.encoder\.(swin|hidden_states_norms)\.": r"backbone.network.\1.",
    r"model\.pixel_level_module\.encoder\.embedder\.embedder\.convolution\.": "backbone.body.conv1.",
    r"model\.pixel_level_module\.encoder\.embedder\.embedder\.normalization\.": "backbone.body.bn1.",
    r"model\.pixel_level_module\.encoder\.encoder\.stages\.(\d)\.layers\.(\d+)\.": (
        lambda match: f"backbone.body.layer{int(match[1]) + 1}.{match[2]}."
    ),
}
"""Beginnings of transformers' names and of ours, or of torchvision's in a ResNet."""
_BLOCK = {
    r"\.layer\.(\d)\.convolution\.": lambda match: f".conv{int(match[1]) + 1}.",
    r"\.layer\.(\d)\.normalization\.": lambda match: f".bn{int(match[1]) + 1}.",
    r"\.shortcut\.convolution\.": ".downsample.0.",
    r"\.shortcut\.normalization\.": ".downsample.1.",
}
"""Parts of transformers' names of a residual block, and torchvision's."""


def names_of_detectron2(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors of a detectron2 Mask2Former by our names; every name is accounted for.

    Names of constants are left out. Raises:
        UserError: a name that has no place in Mask2Former with ResNet-50 or a Swin Transformer.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if not _CONSTANTS.fullmatch(key):
            renamed |= _split(_from_detectron2(key, what), value)
    return own_names(renamed)


def _from_detectron2(key: str, what: str) -> str:
    """Our name, or torchvision's in a ResNet, for one of detectron2's."""
    if re.match(r"backbone\.(stem|res\d)\.", key):
        return f"backbone.body.{resnet_name(key.removeprefix('backbone.'))}"
    for pattern, replacement in _DETECTRON2.items():
        name, number = re.subn(rf"^{pattern}(?=\.|$)", replacement, key)
        if number:
            return name
    raise UserError(
        f"{what} wants detectron2's Mask2Former with ResNet-50 or a Swin Transformer, found the tensor '{key[:80]}', "
        "which has no place in one: give the weights of such a network"
    )


def _split(key: str, value: Tensor) -> dict[str, Tensor]:
    """The tensor by its name, or its three parts by theirs."""
    for pattern, layers in _JOINED.items():
        match = re.fullmatch(pattern, key)
        if match and len(value) % 3 == 0:
            return {f"{match[1]}.{layer}.{match[2]}": part for layer, part in zip(layers, value.chunk(3), strict=True)}
    return {key: value}


def names_of_transformers(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors of transformers' Mask2Former by our names; every name is accounted for.

    Raises:
        UserError: a name that has no place in Mask2Former with ResNet-50 or a Swin Transformer.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if _CONSTANTS.fullmatch(key):
            continue
        matched = ((pattern, name) for pattern, name in _TRANSFORMERS.items() if re.match(pattern, key))
        pattern, replacement = next(matched, ("", ""))
        if not pattern:
            raise UserError(
                f"{what} wants transformers' Mask2Former with ResNet-50 or a Swin Transformer, found the tensor "
                f"'{key[:80]}', which has no place in one: give the weights of such a network"
            )
        name = re.sub(f"^{pattern}", replacement, key)
        if name.startswith("backbone.body."):
            for part, theirs in _BLOCK.items():
                name = re.sub(part, theirs, name)
        renamed[name] = value
    return own_names(renamed)
