"""Load checkpoints of WeakTr and of plain vision transformers into WeakTr, and save WeakTr's own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from weaksam.config import UserError, fingerprint_of
from weaksam.models.weaktr.fusion import Fusion, FusionShape
from weaksam.models.weaktr.network import WeakTr, WeakTrSettings
from weaksam.models.weaktr.transformer_files import (
    distillation_to_register,
    read_transformer,
    transformer_files,
)
from weaksam.models.weaktr.vit import VitShape
from weaksam.sam.transformers.files import first_line, names_transformers_model
from weaksam.store.files import hash_file
from weaksam.store.weight_headers import described_numbers, refuse_larger_network
from weaksam.store.weights import load_into, load_state, read_metadata, save_weights

_FUSION = "adaptive_attention_fusion."
_HEADS = ("head.", "head_dist.")
_MOST_BLOCKS = 1000
_UNUSED_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Numbers between 1 and 90 that no category of COCO has."""


def load_weaktr(settings: WeakTrSettings, num_classes: int, *, trained: bool = False) -> WeakTr:
    """The network of the shape that ``settings.weights`` hold, with these weights in it; ``trained`` wants all of it.

    Raises:
        UserError: the weights cannot be read, are of no vision transformer, or of a WeakTr with another fusion or
            another number of classes.
    """
    try:
        return _loaded(settings, num_classes, trained)
    except UserError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(
            f"wanted a plain vision transformer (DeiT or WeakTr) in {settings.weights}, found tensors of other names "
            f"or shapes ({first_line(error)}): give another file, or the folder of a model of transformers"
        ) from error


def _loaded(settings: WeakTrSettings, num_classes: int, trained: bool) -> WeakTr:
    """`load_weaktr`, for weights whose tensors have the number of axes that they should."""
    path = Path(settings.weights)
    is_model = names_transformers_model(path)
    state = {} if is_model or settings.weights == "none" else load_state(path, "WeakTr")
    if any(key.startswith(_FUSION) for key in state):
        saved, fusion = _saved_shape(path)
        positions = ("pos_embed",) if saved is None or saved.grid else ()
        _check_vit(state, path, "head.weight", "head.bias", *positions)
        return _whole_network(settings, state, saved, fusion, num_classes)
    if trained:
        raise UserError(
            f"wanted a trained WeakTr, found other weights in {path}: train one (num_epochs > 0) or give its checkpoint"
        )
    if is_model:
        state, shape = read_transformer(path)
    else:
        _check_vit(state, path, "pos_embed")
        state, shape = _deit(state, settings.num_heads, path)
    return _around_transformer(settings, state, shape, num_classes)


def save_weaktr(model: WeakTr, path: Path, fingerprint: str) -> None:
    """Write weights, shape and fusion of a network to ``path`` (safetensors), for ``weaktr.weights`` of another run."""
    metadata = {"weaktr": asdict(model.shape), "fusion": model.fusion.kind, "fingerprint": fingerprint}
    save_weights(path, model.state_dict(), metadata)


def is_trained_weaktr(settings: WeakTrSettings) -> bool:
    """Whether ``settings.weights`` hold a whole WeakTr rather than a transformer or nothing; raises as `load_weaktr`.

    Only a WeakTr has the weights of the fusion.
    """
    path = Path(settings.weights)
    if settings.weights == "none" or names_transformers_model(path):
        return False
    return any(key.startswith(_FUSION) for key in load_state(path, "WeakTr"))


def weaktr_fingerprint(settings: WeakTrSettings) -> str:
    """SHA-256 (hex) over what decides the network: the settings, and the bytes of the weights they name."""
    digest = hashlib.sha256(fingerprint_of(settings.model_copy(update={"weights": ""})).encode())
    if settings.weights != "none":
        path = Path(settings.weights)
        for file in transformer_files(path) if names_transformers_model(path) else (path,):
            if file.is_file():
                hash_file(digest, file)
            else:
                digest.update(str(file).encode())
    return digest.hexdigest()


# A whole WeakTr


def _whole_network(
    settings: WeakTrSettings,
    state: dict[str, Tensor],
    saved: VitShape | None,
    saved_fusion: Fusion | None,
    num_classes: int,
) -> WeakTr:
    """A network filled from the state of a trained WeakTr, published or our own (whose shape and fusion are saved)."""
    state = _with_slots(settings, state)
    source = settings.weights
    num_tokens = state["cls_token"].shape[1]
    if num_tokens != num_classes:
        raise UserError(
            f"wanted a WeakTr of {num_classes} classes, found one of {num_tokens} in {source}: give a checkpoint "
            "trained on these classes" + (", or set class_slots=coco" if (num_tokens, num_classes) == (90, 80) else "")
        )
    fusion = _fusion_of(settings, state, saved_fusion)
    shape = saved or _shape_of(state, num_classes, _heads_of_fusion(state, settings))
    if "reg_token" in state:
        shape = replace(shape, num_registers=state["reg_token"].shape[1])
    model = _built(shape, num_classes, fusion, settings, state)
    load_into(model, state, f"WeakTr with {num_classes} classes")
    return model


def _built(
    shape: VitShape, num_classes: int, fusion: FusionShape, settings: WeakTrSettings, state: Mapping[str, Tensor]
) -> WeakTr:
    """The network with random weights; `UserError` where it would be far larger than the weights given, ``state``."""
    if shape.depth > _MOST_BLOCKS:
        raise UserError(f"wanted at most {_MOST_BLOCKS} blocks in {settings.weights}, found {shape.depth}: give a ViT")
    num_held = sum(tensor.numel() for tensor in state.values())
    num_described = described_numbers(lambda: WeakTr(shape, num_classes, fusion, settings.drop_path))
    refuse_larger_network(num_described, num_held, "WeakTr", f"the shape in {settings.weights}")
    return WeakTr(shape, num_classes, fusion, settings.drop_path)


def _with_slots(settings: WeakTrSettings, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of 80 classes from one of 90 where the settings ask for it.

    Tokens of the ten numbers that COCO skips stay in as registers, so that no other token sees a difference.
    """
    if settings.class_slots == "same":
        return state
    tokens = state["cls_token"]
    if tokens.shape[1] != 90:
        raise UserError(
            f"class_slots=coco wants a WeakTr of 90 classes, found one of {tokens.shape[1]} in {settings.weights}: "
            "set class_slots=same"
        )
    unused = [number - 1 for number in _UNUSED_COCO_IDS]
    used = [slot for slot in range(90) if slot not in unused]
    positions = state["pos_embed"]
    return state | {
        "cls_token": tokens[:, used],
        "reg_token": tokens[:, unused] + positions[:, unused],
        "pos_embed": torch.cat([positions[:, used], positions[:, 90:]], dim=1),
        "head.weight": state["head.weight"][used],
        "head.bias": state["head.bias"][used],
    }


def _fusion_of(settings: WeakTrSettings, state: Mapping[str, Tensor], saved: Fusion | None) -> FusionShape:
    """The fusion inside a state; a ``UserError`` that names it where the settings want another one.

    Names tell features from maps; whether their maximum or their mean was pooled is known of our own files alone.
    """
    of_features = f"{_FUSION}attn_head_ffn.0.weight" in state
    wanted = settings.fusion.startswith("feature")
    if of_features != wanted:
        variant, fitting = ("feature", saved or "feature_max") if of_features else ("map", saved or "map_max")
        raise UserError(
            f"wanted a WeakTr that fuses attention by {settings.fusion}, found weights of the {variant} pooling "
            f"variant in {settings.weights}: set fusion={fitting}"
        )
    if saved not in (None, settings.fusion):
        raise UserError(
            f"wanted a WeakTr that fuses attention by {settings.fusion}, found one that was trained with {saved} in "
            f"{settings.weights}: set fusion={saved}"
        )
    if of_features:
        hidden = state[f"{_FUSION}attn_head_ffn.0.weight"].shape[0]
        feature_hidden = state.get(f"{_FUSION}attn_feat_ffn.0.weight", torch.zeros(1)).shape[0]
        return FusionShape(settings.fusion, hidden, feature_hidden)
    return FusionShape(settings.fusion, state.get(f"{_FUSION}fc.0.weight", torch.zeros(1)).shape[0])


def _heads_of_fusion(state: Mapping[str, Tensor], settings: WeakTrSettings) -> int | None:
    """Attention heads per block: the fusion has one channel per head and block."""
    for key in (f"{_FUSION}attn_head_ffn.0.weight", f"{_FUSION}fc.0.weight"):
        if key in state:
            return state[key].shape[1] // _depth(state)
    return settings.num_heads


def _saved_shape(path: Path) -> tuple[VitShape | None, Fusion | None]:
    """The shape and fusion that `save_weaktr` wrote into a file; None for a file of others."""
    try:
        saved = read_metadata(path)
    except SafetensorError:  # a torch file
        return None, None
    return VitShape(**saved["weaktr"]) if saved.get("weaktr") else None, saved.get("fusion")


# A transformer alone, the rest of WeakTr stays random


def _around_transformer(
    settings: WeakTrSettings, state: dict[str, Tensor], shape: VitShape, num_classes: int
) -> WeakTr:
    """A network whose transformer is ``state`` of one class token, repeated for every class as published."""
    fusion = FusionShape.of(settings.fusion, shape, settings.reduction, settings.feature_reduction)
    model = _built(shape, num_classes, fusion, settings, state)
    state = dict(state)
    state["cls_token"] = state["cls_token"].repeat(1, num_classes, 1)
    if shape.grid:
        first, rest = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        state["pos_embed"] = torch.cat([first.repeat(1, num_classes, 1), rest], dim=1)
    random = {key: value for key, value in model.state_dict().items() if key.startswith((*_HEADS, _FUSION))}
    load_into(model, state | random, f"the vision transformer in {settings.weights}")
    return model


def _deit(state: dict[str, Tensor], num_heads: int | None, path: Path) -> tuple[dict[str, Tensor], VitShape]:
    """State and shape of a DeiT or timm checkpoint without its classifier; a distillation token becomes a register."""
    state = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    if state["cls_token"].shape[1] != 1:
        raise UserError(
            f"wanted a vision transformer of one class token in {path}, found {state['cls_token'].shape[1]} and no "
            "fusion of attention: give a DeiT, or a whole WeakTr"
        )
    distillation_to_register(state)
    return state, _shape_of(state, 1, num_heads)


def _check_vit(state: Mapping[str, Tensor], path: Path, *others: str) -> None:
    wanted = ("cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", *others)
    missing = [key for key in wanted if key not in state]
    if missing:
        raise UserError(
            f"wanted a plain vision transformer (DeiT or WeakTr) in {path}, found weights without '{missing[0]}': give "
            "another file, or the folder of a model of transformers"
        )


def _depth(state: Mapping[str, Tensor]) -> int:
    return len({key.split(".")[1] for key in state if key.startswith("blocks.")})


def _shape_of(state: Mapping[str, Tensor], num_classes: int, num_heads: int | None) -> VitShape:
    """The shape of a transformer with timm's names, read from its tensors; heads of 64 channels if none are given."""
    width = state["cls_token"].shape[2]
    return VitShape(
        width=width,
        depth=_depth(state),
        num_heads=num_heads or max(1, width // 64),
        patch_size=state["patch_embed.proj.weight"].shape[3],
        grid=math.isqrt(state["pos_embed"].shape[1] - num_classes),
        mlp_width=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_registers=state["reg_token"].shape[1] if "reg_token" in state else 0,
        layer_scale="blocks.0.ls1.gamma" in state,
    )
