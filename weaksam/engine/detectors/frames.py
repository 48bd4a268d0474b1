"""Hold a training photo at the detector's size with all that lies on it, before a view of it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class PhotoFrame:
    """A training photo, or what was mixed of several, in a frame of ``size`` (h, w)."""

    size: tuple[int, int]
    read: Callable[[], Tensor]
    """Gives its pixels, uint8 ``(3, h, w)``, which nobody changes."""
    instances: Instances
    """Its pseudo boxes, and regions to ignore (``crowd``)."""
    regions: Mapping[str, Instances]
    """Further regions by name, see `PhotoRegions`."""
    tags: Tensor
    """Bool ``(C,)``: the classes that may be where no box is."""
