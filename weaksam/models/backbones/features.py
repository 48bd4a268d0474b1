"""Build a backbone by name, frozen where asked, that returns its named feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.models.backbones.architectures import ARCHITECTURES
from weaksam.models.backbones.batch_norm import calibrate, fold_batch_norm, freeze_batch_norm
from weaksam.models.backbones.nano_encoder import nano_encoder, nano_modules
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import published_state, stride_in
from weaksam.sam.nano.model import NanoEncoder
from weaksam.store.weights import load_into, load_state


class FeatureExtractor(nn.Module):
    """A backbone that returns its named maps.

    ``taps`` gives, for each map name, the index of the module whose output it is; ``channels`` and ``strides`` its
    depth and its step in input pixels. Modules behind the last tap are left out.
    """

    def __init__(
        self, modules: Sequence[nn.Module], taps: dict[str, int], channels: dict[str, int], strides: dict[str, int]
    ) -> None:
        super().__init__()
        self.body = nn.ModuleList(modules[: max(taps.values()) + 1])
        self.taps = dict(taps)
        self.channels, self.strides = channels, strides

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps ``(B, channels[name], ~H/strides[name], ~W/strides[name])`` of normalised images ``(B, 3, H, W)``."""
        maps: dict[int, Tensor] = {}  # by index of the module
        hidden = images
        for index, module in enumerate(self.body):
            hidden = module(hidden)
            if index in self.taps.values():
                maps[index] = hidden
        return {name: maps[index] for name, index in self.taps.items()}


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
    architecture = ARCHITECTURES[settings.name]
    unknown = [name for name in maps if name not in architecture.maps]
    if unknown or not maps:
        known = ", ".join(architecture.maps)
        raise UserError(
            f"{settings.name} has the feature maps {known}, but {list(unknown)} was asked for: name one of them."
        )
    modules = module_chain(_load_network(settings, dilate))
    chosen = {name: architecture.maps[name] for name in maps}
    extractor = FeatureExtractor(
        modules,
        taps={name: feature_map.module for name, feature_map in chosen.items()},
        channels={name: feature_map.channels for name, feature_map in chosen.items()},
        strides={
            name: feature_map.dilated_stride if dilate else feature_map.stride for name, feature_map in chosen.items()
        },
    )
    extractor.body = nn.ModuleList([freeze_batch_norm(module) for module in extractor.body])
    if settings.adapted is not None:
        what = f"backbone {settings.name} trained on tags"
        load_into(extractor, load_state(settings.adapted, what), what, allow_extra=("body.",))
    if frozen:
        fold_batch_norm(extractor).requires_grad_(False).eval()
    return extractor.to(memory_format=torch.channels_last)


def _load_network(settings: BackboneSettings, dilate: bool) -> nn.Module:
    """Torchvision's network without classifier, with its weights; every key of a file is accounted for."""
    if settings.name == "sam_nano":
        return nano_encoder(settings.weights, settings.weights_sha256)
    network = _random_network(settings.name, dilate)
    if stride_in(settings) == "1x1":
        _stride_first(network)
    state = published_state(settings)
    if state is None:
        calibrate(network)
    else:
        what, classifier = f"backbone {settings.name}", ARCHITECTURES[settings.name].classifier
        load_into(network, state, what, allow_missing=(".num_batches_tracked",), allow_extra=(classifier,))
    if settings.name == "mobilenet_v2" and dilate:
        _dilate_mobilenet(network)
    return network


def _random_network(name: str, dilate: bool) -> nn.Module:
    """The network with its usual random weights; the classifier (nine tenths of VGG-16) is never allocated."""
    kwargs = {"replace_stride_with_dilation": [False, False, True]} if name == "resnet50" and dilate else {}
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None, **kwargs)
    setattr(network, ARCHITECTURES[name].classifier.rstrip("."), nn.Identity())
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network


def module_chain(network: nn.Module) -> list[nn.Module]:
    """The network as a flat list of modules to be run one after the other, without its classifier."""
    if isinstance(network, torchvision.models.ResNet):
        stem = [network.conv1, network.bn1, network.relu, network.maxpool]
        modules = [nn.Sequential(*stem[:3]), stem[3], nn.Identity(), nn.Identity()]
        return [*modules, network.layer1, network.layer2, network.layer3, network.layer4]
    if isinstance(network, NanoEncoder):
        return nano_modules(network)
    modules = list(network.features)
    if isinstance(network, torchvision.models.MobileNetV2):
        # Open features[14] after its expansion, so that the 576-channel map can be tapped
        expansion, *rest = modules[14].conv
        modules[14:15] = [expansion, nn.Sequential(*rest)]
    return modules


def _stride_first(network: torchvision.models.ResNet) -> None:
    """Move the stride of every residual block from its 3x3 to its first 1x1 convolution, as in Caffe's ResNet-50."""
    for block in (*network.layer2, *network.layer3, *network.layer4):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _dilate_mobilenet(network: nn.Module) -> None:
    """Keep stride 16: remove the stride of ``features[14]`` and dilate the depthwise convolutions after it."""
    for block in network.features[14:18]:
        depthwise = block.conv[1][0]
        if depthwise.stride == (2, 2):
            depthwise.stride = (1, 1)  # the kernel of the strided convolution itself stays dense
        else:
            depthwise.dilation, depthwise.padding = (2, 2), (2, 2)
