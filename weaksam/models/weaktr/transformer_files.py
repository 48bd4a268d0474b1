"""Read ViT, DeiT, DINOv2 and DINOv3 as transformers saves them, under the names of our own transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.models.backbones.colours import IMAGENET_MEAN, IMAGENET_STD
from weaksam.models.weaktr.vit import VitShape
from weaksam.sam.transformers.bounds import refuse_larger_config, refuse_wild_config
from weaksam.sam.transformers.files import ModelSource, first_line, read_json, weight_files
from weaksam.sam.transformers.models import quiet_transformers
from weaksam.sam.transformers.networks import read_network

CLASSES = {
    "vit": "ViTModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
"""transformers' class by the ``model_type`` of config.json."""

_NOT_READ = r"(.*\.)?(pooler\..*|.*classifier\..*|embeddings\.mask_token|decoder\..*)"
"""Parts of a checkpoint that no class map needs."""

_NAMES = (
    (r"^(encoder\.|model\.)?layers?\.", "blocks."),
    (r"^embeddings\.patch_embeddings(\.projection)?\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^layernorm\.", "norm."),
    (r"\.(layernorm_before)\.", ".norm1."),
    (r"\.(layernorm_after)\.", ".norm2."),
    (r"\.attention\.(q_proj|attention\.query)\.", ".attn.q."),
    (r"\.attention\.(k_proj|attention\.key)\.", ".attn.k."),
    (r"\.attention\.(v_proj|attention\.value)\.", ".attn.v."),
    (r"\.attention\.(o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.gate_proj\.", ".mlp.gate."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.(down_proj|weights_out)\.", ".mlp.fc2."),
)
"""Names of transformers' modules (several generations of them) and ours, in order."""

_IMAGENET = (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD))


def read_transformer(weights: Path) -> tuple[dict[str, Tensor], VitShape]:
    """State, named as in `VisionTransformer` with one class token, and shape of a model in a folder or on the hub.

    Queries, keys and values are joined, a missing bias is 0, a distillation token becomes a register, and the
    normalisation of pixels that the model wants is folded into its first layer, so that it takes ImageNet's.

    Raises:
        UserError: the folder is incomplete, the model of another kind, or its weights do not fit its config.json.
    """
    source = _find(weights)
    config = read_json(source, "config.json")
    model_type = config.get("model_type")
    if model_type not in CLASSES:
        raise UserError(
            f"wanted a plain vision transformer ({', '.join(CLASSES)}) in {source.name}, found model_type "
            f"{model_type!r} in its config.json: give another model"
        )
    refuse_wild_config(config, source)
    paths = weight_files(source)
    with quiet_transformers():
        class_ = getattr(import_module("transformers"), CLASSES[model_type])
        refuse_larger_config(class_, source, paths, model_type)
        options = {"add_pooling_layer": False} if model_type in ("vit", "deit") else {}
        network = read_network(source, CLASSES[model_type], not_read=_NOT_READ, **options)
    shape = _shape(network.config, source)
    state = _own_names(network.state_dict(), shape)
    _fold_normalisation(state, source)
    return state, replace(shape, mlp_width=state["blocks.0.mlp.fc1.weight"].shape[0])


def transformer_files(weights: Path) -> tuple[Path, ...]:
    """The files of a model that decide its outputs: config.json, its preprocessing and its weights."""
    source = _find(weights)
    return (source.folder / "config.json", source.folder / "preprocessor_config.json", *weight_files(source))


def _find(weights: Path) -> ModelSource:
    """The folder of a model, fetched where ``weights`` is a hub id; a ``UserError`` if it cannot be."""
    if weights.is_dir():
        return ModelSource(str(weights), weights)
    name = weights.as_posix()
    patterns = ["config.json", "preprocessor_config.json", "model*.safetensors*"]
    try:
        folder = import_module("huggingface_hub").snapshot_download(name, allow_patterns=patterns)
    except Exception as error:  # many kinds: offline, unreachable, gated, unknown, a full disk
        raise UserError(
            f"wanted a vision transformer at {name}, which is no file or folder here and could not be fetched from the "
            f"hub ({type(error).__name__}: {first_line(error)}): correct it, or give the folder of a downloaded model"
        ) from error
    return ModelSource(name, Path(folder))


def _shape(config: Any, source: ModelSource) -> VitShape:
    """The shape of the network that config.json describes."""
    swiglu = getattr(config, "use_swiglu_ffn", False)  # DINOv2's, which is silu whatever hidden_act says
    activation: Any = "silu" if swiglu else config.hidden_act
    patch_size, image_size = _square_side(config.patch_size), _square_side(config.image_size)
    if activation not in ("gelu", "silu") or None in (patch_size, image_size) or config.num_channels != 3:
        raise UserError(
            f"wanted square patches of square RGB images and gelu or silu layers in {source.name}, found patches "
            f"{config.patch_size} of {config.image_size} with {config.num_channels} channels and {activation}: give "
            "another model"
        )
    assert patch_size is not None and image_size is not None
    rotary = getattr(config, "rope_theta", None)
    registers = getattr(config, "num_register_tokens", 0) + (config.model_type == "deit")
    return VitShape(
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        patch_size=patch_size,
        grid=0 if rotary else image_size // patch_size,
        mlp_width=0,  # read from the weights
        num_registers=registers,
        norm_eps=config.layer_norm_eps,
        layer_scale=config.model_type.startswith("dino"),
        gated_mlp=swiglu or getattr(config, "use_gated_mlp", False),
        activation=activation,
        rope_theta=rotary,
    )


def _square_side(side: Any) -> int | None:
    """The side of a square given as one number or as two; None for two that differ."""
    sides = {side} if isinstance(side, int) else set(side)
    return sides.pop() if len(sides) == 1 else None


def _own_names(theirs: Mapping[str, Tensor], shape: VitShape) -> dict[str, Tensor]:
    """The state under our names; every tensor of theirs is used or named in ``_NOT_READ``."""
    state: dict[str, Tensor] = {}
    for key, value in theirs.items():
        if re.fullmatch(_NOT_READ, key):
            continue
        for pattern, ours in _NAMES:
            key = re.sub(pattern, ours, key)
        state[key] = value
    for key in [key for key in state if ".mlp.weights_in." in key]:  # DINOv2's gate and layer as one
        gate, layer = state.pop(key).chunk(2)
        state[key.replace("weights_in", "gate")], state[key.replace("weights_in", "fc1")] = gate, layer
    for block in range(shape.depth):
        prefix = f"blocks.{block}.attn."
        parts = [state.pop(f"{prefix}{name}.weight") for name in "qkv"]
        no_bias = torch.zeros(len(parts[0]))
        state[f"{prefix}qkv.weight"] = torch.cat(parts)
        state[f"{prefix}qkv.bias"] = torch.cat([state.pop(f"{prefix}{name}.bias", no_bias) for name in "qkv"])
    for key in [key for key in state if key.startswith("blocks.") and key.endswith(".weight")]:
        state.setdefault(key.removesuffix("weight") + "bias", torch.zeros(len(state[key])))
    if shape.num_registers == 0:
        state.pop("reg_token", None)  # DINOv3 without registers holds an empty one
    distillation_to_register(state)
    return state


def distillation_to_register(state: dict[str, Tensor]) -> None:
    """Make a register of DeiT's distillation token, where ``state`` has one; its position comes second."""
    if "dist_token" in state:
        positions = state["pos_embed"]
        state["reg_token"] = state.pop("dist_token") + positions[:, 1:2]
        state["pos_embed"] = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)


def _fold_normalisation(state: dict[str, Tensor], source: ModelSource) -> None:
    """Let the first layer take ImageNet-normalised pixels instead of what preprocessor_config.json says."""
    if not (source.folder / "preprocessor_config.json").is_file():
        return
    settings = read_json(source, "preprocessor_config.json")
    mean, deviation = (torch.tensor(settings.get(name, usual)) for name, usual in _IMAGENET)
    usual_mean, usual_deviation = (torch.tensor(usual) for _, usual in _IMAGENET)
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    # theirs = (ours * usual_deviation + usual_mean - mean) / deviation, per colour
    factor, shift = usual_deviation / deviation, (usual_mean - mean) / deviation
    state["patch_embed.proj.bias"] = bias + torch.einsum("dcyx,c->d", weight, shift)
    state["patch_embed.proj.weight"] = weight * factor[:, None, None]
