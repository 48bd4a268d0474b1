"""Toy DINO networks: the golden file's ResNet-18 of 8 base channels, and a smaller one."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from weaksam.models.backbones.batch_norm import freeze_batch_norm
from weaksam.models.backbones.features import FeatureExtractor
from weaksam.models.detectors.dino.network import DinoNetwork
from weaksam.models.detectors.dino.settings import DinoShape

GOLDEN = Path("golden/dino_mmdet_tiny.safetensors")
GOLDEN_SHAPE = DinoShape(embed_dims=256, ffn_dims=64, encoder_layers=1, decoder_layers=2, num_queries=20)
SMALL_SHAPE = DinoShape(
    embed_dims=32, num_heads=4, ffn_dims=32, norm_groups=8, encoder_layers=1, decoder_layers=2, num_queries=12,
    num_denoising=10,
)  # fmt: skip
SIZES = [(80, 96), (64, 72)]
"""``(h, w)`` of the photos in a batch of `images`."""


def resnet18(base: int) -> FeatureExtractor:
    """ResNet-18 of ``base`` channels with frozen batch-norm and maps of stride 8, 16 and 32."""
    stem = nn.Sequential(nn.Conv2d(3, base, 7, 2, 3, bias=False), nn.BatchNorm2d(base), nn.ReLU(inplace=True))
    modules: list[nn.Module] = [stem, nn.MaxPool2d(3, 2, 1), nn.Identity(), nn.Identity()]
    channels = base
    for stage in range(4):
        depth, stride = base * 2**stage, 1 if stage == 0 else 2
        narrow = nn.Sequential(nn.Conv2d(channels, depth, 1, stride, bias=False), nn.BatchNorm2d(depth))
        first = BasicBlock(channels, depth, stride, narrow if stage else None)
        modules.append(nn.Sequential(first, BasicBlock(depth, depth)))
        channels = depth
    names = ("c3", "mid", "last")
    return FeatureExtractor(
        [freeze_batch_norm(module) for module in modules],
        {name: 5 + number for number, name in enumerate(names)},
        {name: base * 2 ** (1 + number) for number, name in enumerate(names)},
        {name: 8 * 2**number for number, name in enumerate(names)},
    )


def golden_tensors(folder: Path) -> dict[str, Tensor]:
    """The golden file's tensors, weights in float32."""
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in load_file(folder / GOLDEN).items()
    }


def small_network(num_classes: int = 3, shape: DinoShape = SMALL_SHAPE, seed: int = 0) -> DinoNetwork:
    """A network with random weights that are not as even as the first ones of a training."""
    torch.manual_seed(seed)
    network = DinoNetwork(resnet18(8), shape, num_classes)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and not name.startswith("backbone"):
                parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def mmdet_names(network: DinoNetwork) -> dict[str, Tensor]:
    """The network's weights as mmdet names them."""
    named = {"0.0.": "conv1.", "0.1.": "bn1.", **{f"{stage + 3}.": f"layer{stage}." for stage in range(1, 5)}}
    state = {}
    for key, value in network.state_dict().items():
        for ours, theirs in named.items():
            key = re.sub(rf"^backbone\.body\.{re.escape(ours)}", f"backbone.{theirs}", key)
        state[key] = value
    return state | {"backbone.bn1.num_batches_tracked": torch.tensor(7)}


def images(seed: int = 1) -> Tensor:
    """Two normalised photos of noise, padded to 80 x 96."""
    return torch.randn(2, 3, 80, 96, generator=torch.Generator().manual_seed(seed))
