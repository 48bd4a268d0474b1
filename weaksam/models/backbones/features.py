"""ImageNet backbones by name, cut into named feature maps and frozen where asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from weaksam.config import Settings, UserError
from weaksam.models.backbones.batch_norm import calibrate, fold_batch_norm, freeze_batch_norm
from weaksam.sam.nano.model import Architecture, ConvTrunk, NanoEncoder
from weaksam.sam.nano.segmenter import BUNDLED, SamNano
from weaksam.store.weights import load_into, load_state

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BackboneSettings(Settings):
    """Which network reads the photos, and where its weights come from."""

    name: Literal["mobilenet_v2", "resnet50", "vgg16", "sam_nano"] = "mobilenet_v2"
    """A torchvision classification network, or the image encoder of sam_nano (offline demonstrations only)."""
    weights: str = "imagenet"
    """Path of a state dict (.safetensors or .pth), ``imagenet`` (torchvision's first download; sam_nano: the bundled
    weights, which have seen rendered scenes only), another of torchvision's names (``IMAGENET1K_V2``, and for vgg16
    ``IMAGENET1K_FEATURES``, Caffe's) or ``none``."""
    adapted: Path | None = None
    """Weights that the clue stage trained on the tags of this very backbone; set by the pipeline."""


@dataclass(frozen=True)
class _Architecture:
    """How one torchvision network is cut: named maps as (module index, channels, stride, stride if dilated)."""

    maps: dict[str, tuple[int, int, int, int]]
    classifier: str
    """Prefix of the classifier's keys, allowed in a file and not used."""
    stages: tuple[int, ...]
    """First module of each stage, stem first: ``trainable_layers`` counts these from the end."""


# Modules are counted in the flat chain that _chain builds; 'mid' and 'last' are the maps a weak detector pools from.
_ARCHITECTURES: dict[str, _Architecture] = {
    "mobilenet_v2": _Architecture(
        maps={
            "c2": (3, 24, 4, 4),
            "c3": (6, 32, 8, 8),
            "c4": (13, 96, 16, 16),
            "mid": (14, 576, 16, 16),  # the expansion inside features[14], before its stride
            "last": (18, 320, 32, 16),
            "head": (19, 1280, 32, 16),
        },
        classifier="classifier.",
        stages=(0, 2, 4, 7, 11, 14),
    ),
    "resnet50": _Architecture(
        maps={"c2": (4, 256, 4, 4), "c3": (5, 512, 8, 8), "mid": (6, 1024, 16, 16), "last": (7, 2048, 32, 16)},
        classifier="fc.",
        stages=(0, 4, 5, 6, 7),
    ),
    "vgg16": _Architecture(
        maps={"c2": (15, 256, 4, 4), "c3": (22, 512, 8, 8), "mid": (22, 512, 8, 8), "last": (29, 512, 16, 16)},
        classifier="classifier.",
        stages=(0, 5, 10, 17, 24),
    ),
    "sam_nano": _Architecture(
        maps={"c2": (0, 32, 4, 4), "c3": (1, 64, 8, 8), "mid": (2, 192, 16, 16), "last": (6, 192, 16, 16)},
        classifier="neck",
        stages=(0, 1, 2, 3),
    ),
}
_FPN_MAPS = {
    "mobilenet_v2": ("c3", "c4", "last"),
    "resnet50": ("c3", "mid", "last"),
    "vgg16": ("c3", "last"),
    "sam_nano": ("c3", "last"),
}


class FeatureExtractor(nn.Module):
    """A backbone that returns its named maps.

    ``channels`` and ``strides`` give, for each map name, its depth and its step in input pixels.
    """

    def __init__(self, modules: Sequence[nn.Module], taps: dict[str, int], channels: dict, strides: dict) -> None:
        super().__init__()
        self.body = nn.ModuleList(modules[: max(taps.values()) + 1])
        self.taps = dict(taps)
        self.channels: dict[str, int] = channels
        self.strides: dict[str, int] = strides

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps ``(B, channels[name], ~H/strides[name], ~W/strides[name])`` of normalised images ``(B, 3, H, W)``."""
        found: dict[int, Tensor] = {}
        hidden = images
        for index, module in enumerate(self.body):
            hidden = module(hidden)
            if index in self.taps.values():
                found[index] = hidden
        return {name: found[index] for name, index in self.taps.items()}


def normalise(images: Tensor) -> Tensor:
    """Subtract the ImageNet mean and divide by its deviation: ``(..., 3, H, W)`` RGB, uint8 0..255 or float 0..1."""
    if images.dtype == torch.uint8:
        images = images.float() / 255.0
    mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    deviation = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (images - mean) / deviation


def build_features(
    settings: BackboneSettings,
    *,
    dilate: bool = True,
    maps: Sequence[str] = ("mid", "last"),
    frozen: bool = True,
) -> FeatureExtractor:
    """Build the backbone up to the deepest of ``maps``, with its weights, in ``channels_last`` layout.

    Map names: ``c2 c3 mid last`` for every backbone, ``c4 head`` for mobilenet_v2 as well; ``mid`` has 576 channels
    (the hidden expansion of ``features[14]``), ``last`` 320 and ``head`` 1280 there. With ``dilate`` the last stride
    is removed and the later depthwise (or 3x3) convolutions are dilated, so that ``last`` has stride 16 (vgg16 has
    it anyway). ``frozen`` folds batch-norm into the convolutions and stops all gradients; otherwise batch-norm is
    still frozen (torchvision's ``FrozenBatchNorm2d``) and the convolutions train.

    Raises:
        UserError: an unknown map, no network for ``imagenet``, or weights of another architecture.
    """
    architecture = _ARCHITECTURES[settings.name]
    unknown = [name for name in maps if name not in architecture.maps]
    if unknown or not maps:
        known = ", ".join(architecture.maps)
        raise UserError(
            f"{settings.name} has the feature maps {known}, but {list(unknown)} was asked for: name one of them."
        )
    modules = _chain(_load_network(settings, dilate))
    chosen = {name: architecture.maps[name] for name in maps}
    extractor = FeatureExtractor(
        modules,
        taps={name: values[0] for name, values in chosen.items()},
        channels={name: values[1] for name, values in chosen.items()},
        strides={name: values[3 if dilate else 2] for name, values in chosen.items()},
    )
    extractor.body = nn.ModuleList([freeze_batch_norm(module) for module in extractor.body])
    if settings.adapted is not None:
        what = f"backbone {settings.name} trained on tags"
        load_into(extractor, load_state(settings.adapted, what), what, allow_extra=("body.",))
    if frozen:
        fold_batch_norm(extractor).requires_grad_(False).eval()
    return extractor.to(memory_format=torch.channels_last)


def fpn_backbone(settings: BackboneSettings, *, out_channels: int, trainable_layers: int) -> BackboneWithFPN:
    """A feature pyramid for torchvision's detectors: levels of stride 8, 16, 32 (vgg16: 8, 16) and a pooled one.

    ``trainable_layers`` counts stages from the deepest one (0 = only the pyramid trains); the frozen stages have
    their batch-norm folded into the convolutions, the others keep it frozen.
    """
    features = build_features(settings, dilate=False, maps=_FPN_MAPS[settings.name], frozen=False)
    stages = _ARCHITECTURES[settings.name].stages
    if not 0 <= trainable_layers <= len(stages):
        raise UserError(
            f"trainable_layers counts the stages of {settings.name} that train, 0 to {len(stages)}, "
            f"but it is {trainable_layers}: choose one in that range."
        )
    first_trained = stages[len(stages) - trainable_layers] if trainable_layers else len(features.body)
    for module in features.body[:first_trained]:
        fold_batch_norm(module).requires_grad_(False)
    return BackboneWithFPN(
        nn.Sequential(*features.body),
        return_layers={str(index): str(level) for level, index in enumerate(features.taps.values())},
        in_channels_list=[features.channels[name] for name in features.taps],
        out_channels=out_channels,
        extra_blocks=LastLevelMaxPool(),
    ).to(memory_format=torch.channels_last)


def backbone_fingerprint(settings: BackboneSettings) -> str:
    """SHA-256 (hex) over the name and the weights: the bytes of the file, or the name of torchvision's weights."""
    digest = hashlib.sha256(settings.name.encode())
    if settings.name == "sam_nano" and settings.weights == "imagenet":
        digest.update(BUNDLED.read_bytes())
    elif settings.weights == "none" or (published := _torchvision_weights(settings)) is not None:
        digest.update((settings.weights if settings.weights == "none" else str(published.url)).encode())
    else:
        path = Path(settings.weights)
        if not path.is_file():
            raise UserError(f"The weights of backbone {settings.name} were looked for in {path}, which is not a file.")
        digest.update(path.read_bytes())
    if settings.adapted is not None:
        digest.update(settings.adapted.read_bytes())
    return digest.hexdigest()


def _load_network(settings: BackboneSettings, dilate: bool) -> nn.Module:
    """Torchvision's network without classifier, with its weights; every key of a file is accounted for."""
    if settings.name == "sam_nano":
        return _nano_encoder(settings.weights)
    network = _random_network(settings.name, dilate)
    state = published_state(settings)
    if state is None:
        calibrate(network)
    else:
        what, classifier = f"backbone {settings.name}", _ARCHITECTURES[settings.name].classifier
        load_into(network, state, what, allow_missing=(".num_batches_tracked",), allow_extra=(classifier,))
    if settings.name == "mobilenet_v2" and dilate:
        _dilate_mobilenet(network)
    return network


def published_state(settings: BackboneSettings) -> dict[str, Tensor] | None:
    """Every tensor of the weights that ``settings`` name, the classifier's too; None for ``none``.

    For torchvision's networks alone. Raises:
        UserError: the file or the download cannot be had.
    """
    if settings.weights == "none":
        return None
    published = _torchvision_weights(settings)
    if published is None:
        return load_state(settings.weights, f"backbone {settings.name}")
    return _download(settings.name, published)


def first_modules_of_stages(name: str) -> tuple[int, ...]:
    """Index of the first module of each stage of a backbone's ``body``, stem first."""
    return _ARCHITECTURES[name].stages


def _nano_encoder(weights: str) -> nn.Module:
    """The convolutional image encoder of sam_nano, without the neck that only its decoder wants."""
    if weights == "none":
        network: nn.Module = NanoEncoder(Architecture())
        calibrate(network)
        return network
    model = SamNano.load(None if weights == "imagenet" else Path(weights)).model
    return model.image_encoder.requires_grad_(True)  # a segmenter is frozen, a backbone is not


class _Context(nn.Module):
    """The last step of sam_nano's trunk: its global mean, mixed back in."""

    def __init__(self, mix: nn.Linear) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x.mean((2, 3)))[:, :, None, None]


def _random_network(name: str, dilate: bool) -> nn.Module:
    """The network with its usual random weights; the classifier (nine tenths of VGG-16) is never allocated."""
    kwargs = {"replace_stride_with_dilation": [False, False, True]} if name == "resnet50" and dilate else {}
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None, **kwargs)
    setattr(network, _ARCHITECTURES[name].classifier.rstrip("."), nn.Identity())
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network


def _torchvision_weights(settings: BackboneSettings) -> torchvision.models.WeightsEnum | None:
    """Torchvision's weights that ``settings`` name; None where they name a file."""
    name = "IMAGENET1K_V1" if settings.weights == "imagenet" else settings.weights.upper()
    return torchvision.models.get_model_weights(settings.name).__members__.get(name)


def _download(name: str, weights: torchvision.models.WeightsEnum) -> dict[str, Tensor]:
    """Torchvision's own weights, from its cache or the network."""
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"The ImageNet weights of {name} were to be downloaded from {weights.url}, which could not be done "
            f"({error}): fetch that file elsewhere and set backbone.weights to its path."
        ) from error


def _chain(network: nn.Module) -> list[nn.Module]:
    """The network as a flat list of modules to be run one after the other, without its classifier."""
    if isinstance(network, torchvision.models.ResNet):
        stem = [network.conv1, network.bn1, network.relu, network.maxpool]
        modules = [nn.Sequential(*stem[:3]), stem[3], nn.Identity(), nn.Identity()]
        return [*modules, network.layer1, network.layer2, network.layer3, network.layer4]
    if isinstance(network, NanoEncoder):
        trunk = network.trunk
        if not isinstance(trunk, ConvTrunk) or len(trunk.blocks) != 3:
            raise UserError("backbone sam_nano wants its convolutional encoder with 3 blocks, found another kind.")
        return [network.stem, network.middle, trunk.down, *trunk.blocks, _Context(trunk.context)]
    modules = list(network.features)
    if isinstance(network, torchvision.models.MobileNetV2):
        # Open features[14] after its expansion, so that the 576-channel map can be tapped
        expansion, *rest = modules[14].conv
        modules[14:15] = [expansion, nn.Sequential(*rest)]
    return modules


def _dilate_mobilenet(network: nn.Module) -> None:
    """Keep stride 16: remove the stride of ``features[14]`` and dilate the depthwise convolutions after it."""
    for block in network.features[14:18]:
        depthwise = block.conv[1][0]
        if depthwise.stride == (2, 2):
            depthwise.stride = (1, 1)  # the kernel of the strided convolution itself stays dense
        else:
            depthwise.dilation, depthwise.padding = (2, 2), (2, 2)
