"""Adapt a segmenter's image encoder by low-rank matrices (LoRA): insert, keep, load and merge them.

Hu et al., LoRA (ICLR 2022), as WeSAM (Zhang et al., CVPR 2024) uses it on SAM: q and v of every block's fused qkv
projection get ``W x + B A x``, without a bias and without the scale alpha / r. An encoder without attention gets it on
the 3 x 3 convolutions of its trunk (ours).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.config import UserError, fingerprint_of
from weaksam.store.files import file_sha256, unchanged_files
from weaksam.store.weights import check_weights, content_sha256, load_state, read_metadata, save_weights

FORMAT = "weaksam-lora-1"
RANK = 4
"""Rank of the published matrices."""


class LoraLinear(nn.Module):
    """A fused qkv projection whose q and v have low-rank updates; k has none.

    ``base``: a linear layer of D to 3 E features, the first E of them q, the last v. ``a_q``, ``a_v`` are ``(r, D)``,
    ``b_q``, ``b_v`` ``(E, r)``. Only these train. B begins as zeros, so that nothing changes at first.
    """

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        width = base.out_features // 3
        self.a_q = nn.Parameter(_kaiming(base.weight.new_empty(rank, base.in_features), generator))
        self.b_q = nn.Parameter(base.weight.new_zeros(width, rank))
        self.a_v = nn.Parameter(_kaiming(base.weight.new_empty(rank, base.in_features), generator))
        self.b_v = nn.Parameter(base.weight.new_zeros(width, rank))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` -> ``(..., 3 E)``."""
        projected = self.base(x)
        width = projected.shape[-1] // 3
        q, k, v = projected.split(width, dim=-1)
        q = q + F.linear(F.linear(x, self.a_q), self.b_q)
        v = v + F.linear(F.linear(x, self.a_v), self.b_v)
        return torch.cat([q, k, v], dim=-1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base layer with the updates in its weight."""
        width = self.base.out_features // 3
        self.base.weight[:width] += self.b_q @ self.a_q
        self.base.weight[-width:] += self.b_v @ self.a_v
        return self.base


class LoraConv(nn.Module):
    """A convolution with a low-rank update: r filters of its own shape ``a (r, C, k, k)``, mixed by ``b (D, r)``."""

    def __init__(self, base: nn.Conv2d, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(_kaiming(base.weight.new_empty(rank, *base.weight.shape[1:]), generator))
        self.b = nn.Parameter(base.weight.new_zeros(base.out_channels, rank))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, D, h', w')``."""
        base = self.base
        down = F.conv2d(x, self.a, None, base.stride, base.padding, base.dilation)
        return base(x) + F.conv2d(down, self.b[:, :, None, None])

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """The base layer with the update in its weight."""
        self.base.weight += torch.einsum("dr,rckl->dckl", self.b, self.a)
        return self.base


LORA_LAYERS = (LoraLinear, LoraConv)


def add_lora(encoder: nn.Module, rank: int = RANK, seed: int = 0) -> list[str]:
    """Freeze ``encoder`` and insert updates of ``rank`` into it, in place; returns the names of the changed layers.

    A is drawn from ``seed`` (Kaiming-uniform, a = sqrt(5)). Raises ``ValueError`` for a rank below 1, an encoder that
    has updates already; `UserError` for one that has neither a fused qkv projection nor a trunk of 3 x 3 convolutions.
    """
    if rank < 1:
        raise ValueError(f"wanted a rank of at least 1, found {rank}")
    if any(isinstance(module, LORA_LAYERS) for module in encoder.modules()):
        raise ValueError("wanted an encoder without low-rank updates, found one that has them: merge them first")
    encoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    names = [name for name, _ in _targets(encoder)]
    if not names:
        raise UserError(
            "wanted an encoder with a fused qkv projection (SAM, SAM-HQ, SAM 2) or a trunk of 3 x 3 convolutions "
            f"(sam_nano) to adapt, found {type(encoder).__name__}: set segmenter to one of these"
        )
    for name in names:
        base = encoder.get_submodule(name)
        layer = LoraLinear(base, rank, generator) if isinstance(base, nn.Linear) else LoraConv(base, rank, generator)  # type: ignore[arg-type]
        _replace(encoder, name, layer)
    return names


def lora_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The matrices of every updated layer by their names in ``encoder``, which are all that trains; none without."""
    return {
        f"{name}.{key}": parameter
        for name, module in encoder.named_modules()
        if isinstance(module, LORA_LAYERS)
        for key, parameter in module.named_parameters(recurse=False)
    }


def merge_lora(encoder: nn.Module) -> nn.Module:
    """Put the updates into the weights of ``encoder``, in place, which has its plain layers again; returns it."""
    for name, module in list(encoder.named_modules()):
        if isinstance(module, LORA_LAYERS):
            _replace(encoder, name, module.merged())
    return encoder


def save_lora(path: Path, encoder: nn.Module, facts: Mapping[str, Any] | None = None) -> None:
    """Write the updates of ``encoder``, a hash of the weights that they belong to, and ``facts`` to ``path``.

    The file is safetensors; ``facts`` are what else is to be known of the adaptation, as JSON can hold it.
    """
    save_weights(path, lora_state(encoder), {**(facts or {}), "format": FORMAT, "base": _base_hash(encoder)})


def load_lora(path: Path, encoder: nn.Module) -> None:
    """Insert the updates of the file ``path`` into ``encoder``, in place.

    Raises `UserError`, one sentence, for a file that cannot be read, is no file of updates, or belongs to an encoder of
    other weights.
    """
    check_weights(path, "low-rank updates (LoRA)")
    state = load_state(path, "low-rank updates (LoRA)")
    facts = read_metadata(path) if path.suffix == ".safetensors" else {}
    if facts.get("format") != FORMAT:
        raise UserError(
            f"wanted a file that weaksam adapt-sam wrote at {path}, found other weights: name its lora.safetensors"
        )
    names = {name for name, _ in _targets(encoder)}
    ranks = {tensor.shape[0] for key, tensor in state.items() if key.rpartition(".")[2].startswith("a")}
    if (
        facts.get("base") != _base_hash(encoder)
        or len(ranks) != 1
        or {key.rpartition(".")[0] for key in state} != names
    ):
        raise UserError(
            f"wanted the low-rank updates of this segmenter's image encoder in {path}, found those of another one: set "
            "segmenter.weights to the weights that were adapted"
        )
    add_lora(encoder, ranks.pop())
    own = lora_state(encoder)
    if {key: tensor.shape for key, tensor in state.items()} != {key: tensor.shape for key, tensor in own.items()}:
        raise UserError(f"wanted low-rank updates of the encoder's shapes in {path}, found others: adapt it again")
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(state[key])


def adapt(encoder: nn.Module, path: Path, fingerprint: str) -> str:
    """Merge the updates of the file ``path`` into ``encoder``, in place; returns the adapted segmenter's fingerprint.

    ``fingerprint``: the segmenter's before. Raises `UserError` as `load_lora` does.
    """
    with unchanged_files(path):
        load_lora(path, encoder)
        digest = file_sha256(path)
    merge_lora(encoder)
    return fingerprint_of({"base": fingerprint, "lora": digest})


def _base_hash(encoder: nn.Module) -> str:
    """Hash of the encoder's own weights, with updates or without."""
    updates = set(lora_state(encoder))
    own = {name: value for name, value in encoder.state_dict().items() if name not in updates}
    return content_sha256({name.replace(".base.", "."): value for name, value in own.items()}, {})


def _targets(encoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and layers that get updates: fused qkv projections, else 3 x 3 convolutions inside a trunk's blocks."""
    attention = [
        (name, module)
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] == "qkv"
    ]
    convolutions = [
        (name, module)
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Conv2d) and "trunk.blocks." in f"{name}." and module.kernel_size == (3, 3)
    ]
    yield from attention or convolutions


def _replace(encoder: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    setattr(encoder.get_submodule(parent), key, layer)


def _kaiming(weight: Tensor, generator: torch.Generator | None) -> Tensor:
    """``weight (r, ...)`` filled Kaiming-uniform with a = sqrt(5): within 1 / sqrt(fan in)."""
    bound = 1 / math.sqrt(weight[0].numel())
    drawn = torch.rand(weight.shape, generator=generator, dtype=torch.float32) * 2 - 1
    return weight.copy_(drawn * bound)
