"""Read the feature map that the classifier of a torchvision CNN pools, with frozen weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from weaksam.config import UserError, nearest
from weaksam.models.backbones.colours import ColourSettings
from weaksam.models.backbones.weights import published_colours
from weaksam.store.files import hash_file
from weaksam.store.weights import load_into, load_state

_TRANSFORMERS = ("vit_", "swin_", "maxvit_")
_LAST_POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Dropout, nn.Dropout2d)


class CamNetwork(nn.Module):
    """The deepest map of a torchvision classification CNN, called ``cam``; its classifier is not read.

    The map is what the last layer with positions gives, found on a blank picture: for ResNets the last block, stride
    32. Batch norm keeps its statistics, nothing trains.
    """

    def __init__(self, name: str, weights: str = "imagenet") -> None:
        """``name`` as ``torchvision.models.list_models`` has it, ``weights`` imagenet, none or a state dict.

        Raises:
            UserError: no CNN of that name, or weights that cannot be had or belong to another network.
        """
        super().__init__()
        self.network = _build(name, weights).eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)
        self._last_map: Tensor | None = None
        layer, self.num_channels = _last_map(self.network)
        layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self._last_map = output

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``{"cam": (B, num_channels, ~H/32, ~W/32)}`` of normalised images ``(B, 3, H, W)``."""
        self.network(images)
        last_map, self._last_map = self._last_map, None
        assert last_map is not None
        return {"cam": last_map}


def cam_network_fingerprint(name: str, weights: str) -> str:
    """SHA-256 (hex) over the name and the weights: the bytes of the file, or the name of torchvision's weights."""
    digest = hashlib.sha256(name.encode())
    if weights == "imagenet":
        digest.update(str(_default_weights(name).url).encode())
    elif weights == "none":
        digest.update(weights.encode())
    else:
        path = Path(weights)
        if not path.is_file():
            raise UserError(f"The weights of {name} were looked for in {path}, which is not a file: correct the path.")
        hash_file(digest, path)
    return digest.hexdigest()


def cam_network_colours(name: str) -> ColourSettings:
    """The colours that the network wants of photos: those that torchvision states for its weights."""
    return published_colours(_default_weights(name))


def _names() -> list[str]:
    return [name for name in torchvision.models.list_models(torchvision.models) if not name.startswith(_TRANSFORMERS)]


def _default_weights(name: str) -> torchvision.models.WeightsEnum:
    names = _names()
    if name not in names:
        near = nearest(name, names)
        advice = f"choose one such as {', '.join(names[:3])}" if near is None else f"did you mean {near}?"
        why = (
            "a transformer: use clues.source=weaktr" if name.startswith(_TRANSFORMERS) else f"no such network; {advice}"
        )
        raise UserError(f"wanted the name of a torchvision classification CNN as clues.network, found {name!r}, {why}")
    return torchvision.models.get_model_weights(name).DEFAULT


def _build(name: str, weights: str) -> nn.Module:
    """The network with its weights; every key of a file is accounted for."""
    published = _default_weights(name)
    if weights == "imagenet":
        try:
            return torchvision.models.get_model(name, weights=published, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"The ImageNet weights of {name} were to be downloaded from {published.url}, which could not be done "
                f"({error}): fetch that file elsewhere and set clues.network_weights to its path."
            ) from error
    # Inception and GoogLeNet warn that their own initialisation is slow
    network = torchvision.models.get_model(name, weights=None, **_QUICK.get(name, {}))
    if weights != "none":
        what = f"network {name}"
        load_into(network, load_state(weights, what), what, allow_missing=(".num_batches_tracked",))
    return network


_QUICK: dict[str, dict[str, Any]] = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}


@torch.no_grad()
def _last_map(network: nn.Module) -> tuple[nn.Module, int]:
    """The layer whose output is the last map with positions before it is pooled, and its number of channels."""
    outputs: list[tuple[nn.Module, Tensor]] = []
    leaves = [layer for layer in network.modules() if not list(layer.children()) and not isinstance(layer, _LAST_POOLS)]
    hooks = [leaf.register_forward_hook(lambda layer, _, output: outputs.append((layer, output))) for leaf in leaves]
    network(torch.zeros(1, 3, 299, 299))
    for hook in hooks:
        hook.remove()
    maps = [(layer, output) for layer, output in outputs if output.ndim == 4 and min(output.shape[2:]) > 1]
    layer, output = maps[-1]
    return layer, output.shape[1]
