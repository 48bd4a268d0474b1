"""Draw the network's map of a photo, and keep the network with all that is needed to use it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from weaksam.config import UserError, settings_from
from weaksam.models.backbones.inputs import normalise
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import input_colours
from weaksam.models.concealed.blocks import resized
from weaksam.models.concealed.network import ConcealedNetwork, ConcealedNetworkSettings, build_concealed_network
from weaksam.store.weights import load_into, load_state, read_metadata, save_weights

FORMAT = "weaksam concealed 1"


class MapPredictor:
    """A trained network, in evaluation mode, as a function of photos."""

    def __init__(self, network: ConcealedNetwork, backbone: BackboneSettings, side: int) -> None:
        self.network, self.backbone, self.side = network, backbone, side
        self.colours = input_colours(backbone)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The probability of the object at each pixel, float32 ``(H, W)`` in [0, 1], of a photo uint8 ``(H, W, 3)``.

        The photo is resized to the network's square, the last map of logits back to the photo.
        """
        was_training = self.network.training
        self.network.eval()
        try:
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
            pixels = TF.resize(pixels, [self.side, self.side], antialias=True)
            device = next(self.network.parameters()).device
            logits: Tensor = self.network(normalise(pixels[None].to(device), self.colours))[-1]
            return resized(logits, (image.shape[0], image.shape[1]))[0, 0].sigmoid().cpu().numpy()
        finally:
            self.network.train(was_training)

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the weights with what rebuilds the network, and ``facts`` beside them."""
        metadata = {
            "format": FORMAT,
            "backbone": {"name": self.backbone.name, "stride_in": self.backbone.stride_in},
            "colours": self.colours.model_dump(mode="json"),
            "network": {"channels": self.network.stages[0].head.in_channels, "grouping": self.network.groups},
            "side": self.side,
            **facts,
        }
        save_weights(path, self.network.state_dict(), metadata)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> MapPredictor:
        """The network that `save` wrote; raises `UserError` for any other file."""
        state = load_state(path, "a network for concealed objects")
        metadata = read_metadata(path) if path.suffix == ".safetensors" else {}
        if metadata.get("format") != FORMAT:
            raise UserError(
                f"wanted a network of 'weaksam concealed run' (OUT/model.safetensors), found another file at {path}: "
                "name that one"
            )
        backbone = settings_from(
            BackboneSettings, {**metadata["backbone"], "weights": "none", "colours": metadata["colours"]}, str(path)
        )
        network = build_concealed_network(
            backbone, settings_from(ConcealedNetworkSettings, metadata["network"], str(path))
        )
        load_into(network, state, "the network for concealed objects")
        return cls(network.to(device), backbone, int(metadata["side"]))
