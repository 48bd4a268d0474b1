"""Use the image encoder of sam_nano as a backbone."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.models.backbones.batch_norm import calibrate
from weaksam.sam.nano.model import Architecture, ConvTrunk, NanoEncoder
from weaksam.sam.nano.segmenter import SamNano
from weaksam.store.files import same_bytes


def nano_encoder(weights: str, sha256: str | None = None) -> nn.Module:
    """The convolutional image encoder of sam_nano, without the neck that only its decoder wants.

    ``sha256``: the hash of the file that ``weights`` names, where it must have that one.
    """
    if weights == "none":
        network: nn.Module = NanoEncoder(Architecture())
        calibrate(network)
        return network
    with same_bytes(Path(weights), sha256) if sha256 is not None else nullcontext():
        model = SamNano.load(None if weights == "imagenet" else Path(weights)).model
    return model.image_encoder.requires_grad_(True)  # a segmenter is frozen, a backbone is not


def nano_modules(encoder: NanoEncoder) -> list[nn.Module]:
    """The encoder as a flat list of modules to be run one after the other, without its neck.

    Raises:
        UserError: an encoder that is not convolutional or has another number of blocks.
    """
    trunk = encoder.trunk
    if not isinstance(trunk, ConvTrunk) or len(trunk.blocks) != 3:
        raise UserError("backbone sam_nano wants its convolutional encoder with 3 blocks, found another kind.")
    return [encoder.stem, encoder.middle, trunk.down, *trunk.blocks, GlobalContext(trunk.context)]


class GlobalContext(nn.Module):
    """The last step of sam_nano's trunk: the mean over the map, mixed into each of its cells."""

    def __init__(self, mix: nn.Linear) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` of the same shape."""
        return x + self.mix(x.mean((2, 3)))[:, :, None, None]
