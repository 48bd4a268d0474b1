"""Keep what the frozen anchor says of the flips of a photo, which never changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weaksam.recipes.sam_adaptation.losses import prototypes
from weaksam.recipes.sam_adaptation.networks import AdaptableNetwork, enlarged
from weaksam.recipes.sam_adaptation.prompts import InstancePrompts

BITS = tuple(1 << bit for bit in range(8))


class ViewKey(NamedTuple):
    """Which weak view of all it is: the number of the photo, and whether it is flipped down and across."""

    row: int
    down: bool
    across: bool


@dataclass(frozen=True)
class AnchorAnswer:
    """What the anchor says of n instances on a weak view: masks, bool ``(n, S, S)``, and prototypes ``(n, C)``."""

    masks: Tensor
    prototypes: Tensor


class KeptAnchor:
    """The segmenter as it was; what it says of weak views is kept as far as ``max_gib`` (GiB) allows.

    Kept are embeddings, and where prompts are ``fixed`` (an instance has the same one on a view at any time: boxes and
    masks, not points) the mask of each instance, a bit a pixel, and its prototype: then nothing is computed again.
    """

    def __init__(self, network: AdaptableNetwork, max_gib: float, *, fixed: bool) -> None:
        self.network, self.fixed = network, fixed
        self.features: dict[ViewKey, Any] = {}
        self.answers: dict[tuple[ViewKey, int], tuple[Tensor, Tensor]] = {}
        self._bytes_left = max_gib * 2**30

    @torch.no_grad()
    def answer(self, pixels: Tensor, key: ViewKey, prompts: InstancePrompts, numbers: tuple[int, ...]) -> AnchorAnswer:
        """The answer to ``prompts`` for the instances ``numbers (n,)`` of a photo, on its view ``pixels (3, h, w)``."""
        places = [(key, number) for number in numbers]
        if places and all(place in self.answers for place in places):
            packed, kept = zip(*(self.answers[place] for place in places), strict=True)
            side = self.network.side
            return AnchorAnswer(unpacked(torch.stack(packed)).view(-1, side, side), torch.stack(kept))
        features = self.encoded(pixels, key)
        low, _ = self.network.decode(features, 0, prompts)
        answer = AnchorAnswer(
            enlarged(low, self.network.side) > 0, prototypes(self.network.embedding(features, 0), low)
        )
        if self.fixed:
            for place, bits, prototype in zip(
                places, packed_bits(answer.masks.flatten(1)), answer.prototypes, strict=True
            ):
                if place not in self.answers and self._takes(bits, prototype):
                    self.answers[place] = (bits.clone(), prototype.clone())
        return answer

    def encoded(self, pixels: Tensor, key: ViewKey) -> Any:
        """What the encoder makes of a view; kept where there is room."""
        if key in self.features:
            return self.features[key]
        features = self.network.encode([pixels])
        if self._takes(*([features] if isinstance(features, Tensor) else features)):
            self.features[key] = features
        return features

    def _takes(self, *tensors: Tensor) -> bool:
        """Whether there is room for ``tensors``, which is then taken."""
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if num_bytes > self._bytes_left:
            return False
        self._bytes_left -= num_bytes
        return True


def packed_bits(masks: Tensor) -> Tensor:
    """Bool ``(n, 8 m)`` as bytes ``(n, m)``, the first value of eight in the lowest bit."""
    return (masks.unflatten(1, (-1, 8)) * torch.tensor(BITS, device=masks.device)).sum(dim=2).to(torch.uint8)


def unpacked(packed: Tensor) -> Tensor:
    """Bytes ``(n, m)`` as bool ``(n, 8 m)``, see `packed_bits`."""
    bits = torch.tensor(BITS, dtype=torch.uint8, device=packed.device)
    return ((packed[:, :, None] & bits) > 0).flatten(1)
