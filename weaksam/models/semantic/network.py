"""Wrap a semantic segmenter of transformers: photos of 0 to 255 in, logits of a quarter of their size out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam.sam.transformers.files import ModelSource, find_semantic_model, read_json, weight_files
from weaksam.sam.transformers.networks import read_network

SegformerVariant = Literal["nano", "b0", "b1", "b2", "b3", "b4", "b5"]
VARIANTS: dict[SegformerVariant, dict[str, Any]] = {
    "nano": {
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 32,
    },
    "b0": {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b1": {"hidden_sizes": [64, 128, 320, 512], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b2": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
    "b3": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 18, 3], "decoder_hidden_size": 768},
    "b4": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 8, 27, 3], "decoder_hidden_size": 768},
    "b5": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 6, 40, 3], "decoder_hidden_size": 768},
}
"""What tells the sizes apart (Xie et al., arXiv 2105.15203, table 6); ``nano`` is ours, for trials without a GPU."""
ARCHITECTURE = (
    "decoder_hidden_size",
    "depths",
    "hidden_sizes",
    "mlp_ratios",
    "num_attention_heads",
    "patch_sizes",
    "sr_ratios",
    "strides",
)
"""The keys of a SegFormer's config that decide the shapes of its weights."""
STRIDE = 4
"""Pixels that a logit stands for along an axis."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of colours, those of every published SegFormer."""


class Semantics(NamedTuple):
    """Logits ``(n, C, ceil(h / 4), ceil(w / 4))``, and the encoder's maps ``(n, c, ., .)`` by stage, if asked for."""

    logits: Tensor
    features: tuple[Tensor, ...]


class SemanticNetwork(nn.Module):
    """A semantic segmenter of transformers behind one door.

    ``name``: for messages. Photos are float or uint8 ``(n, 3, h, w)`` in 0 to 255; colours are normalised here.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, name: str, mean: Sequence[float] = IMAGENET[0], std: Sequence[float] = IMAGENET[1]
    ) -> None:
        super().__init__()
        self.network, self.name = network, name
        for key, value in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(value).reshape(1, 3, 1, 1), persistent=False)

    @property
    def num_classes(self) -> int:
        """C."""
        config: Any = self.network.config
        return int(config.num_labels)

    def forward(self, photos: Tensor, features: bool = False) -> Semantics:
        """Logits of ``photos``, and the encoder's maps where ``features`` asks for them; no maps of a flat encoder."""
        pixels = (photos.to(self.mean.dtype) / 255 - self.mean) / self.std
        answer = self.network(pixel_values=pixels, output_hidden_states=features)
        size = tuple(-(-side // STRIDE) for side in photos.shape[-2:])
        logits = answer.logits
        if tuple(logits.shape[-2:]) != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        states = answer.hidden_states if features else None
        maps = tuple(state for state in states or () if state.ndim == 4)
        return Semantics(logits, maps)

    @property
    def is_segformer(self) -> bool:
        """Whether it has an `architecture`."""
        config: Any = self.network.config
        return config.model_type == "segformer"  # type: ignore[no-any-return]

    def architecture(self) -> dict[str, Any]:
        """What a SegFormer is built from but for its classes, as JSON can hold it."""
        config: Any = self.network.config
        return {key: getattr(config, key) for key in ARCHITECTURE}

    @torch.no_grad()
    def feature_channels(self) -> list[int]:
        """Channels of the encoder's maps by stage; none of an encoder without maps."""
        training = self.training
        photo = torch.zeros(1, 3, 64, 64, device=self.mean.device)
        channels = [state.shape[1] for state in self.eval()(photo, features=True).features]
        self.train(training)
        return channels


def build_segformer(variant: SegformerVariant, num_classes: int, seed: int) -> SemanticNetwork:
    """SegFormer of one of the `VARIANTS` with weights drawn from ``seed``; B0 of 19 classes has 3,719,027 numbers."""
    return segformer_of(VARIANTS[variant], num_classes, seed, f"SegFormer-{variant.upper()}")


def segformer_of(
    architecture: Mapping[str, Any],
    num_classes: int,
    seed: int,
    name: str,
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
) -> SemanticNetwork:
    """The SegFormer of an `ARCHITECTURE`, or of a part of it, with weights drawn from ``seed``.

    ``mean`` and ``std``: of its colours, 3 each, of photos in [0, 1].
    """
    transformers: Any = import_module("transformers")
    config = transformers.SegformerConfig(num_labels=num_classes, **architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = transformers.SegformerForSemanticSegmentation(config)
    return SemanticNetwork(network, name, mean, std)


def read_semantic(weights: Path, setting: str) -> SemanticNetwork:
    """A semantic segmenter from a folder that transformers wrote, or from the hub; ``setting`` names it in errors.

    Raises `UserError` where it cannot be read. Colours are normalised as its preprocessor_config.json says.
    """
    source = find_semantic_model(weights, setting)
    weight_files(source)
    network = read_network(source, "AutoModelForSemanticSegmentation")
    mean, std = _colours(source)
    return SemanticNetwork(network, source.name, mean, std)


def _colours(source: ModelSource) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of colours; ImageNet's where the model does not say."""
    if not (source.folder / "preprocessor_config.json").is_file():
        return IMAGENET
    values = read_json(source, "preprocessor_config.json")
    mean, std = (
        tuple(values.get(key) or default) for key, default in zip(("image_mean", "image_std"), IMAGENET, strict=True)
    )
    return mean, std
