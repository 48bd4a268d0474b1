"""Find the published or given weights that a backbone's settings name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.error import URLError

import torchvision
from torch import Tensor

from weaksam.config import UserError
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.sam.nano.segmenter import BUNDLED
from weaksam.store.weights import load_state


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
