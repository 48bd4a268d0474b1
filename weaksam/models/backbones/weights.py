"""Find the published or given weights that a backbone's settings name."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torchvision
from torch import Tensor

from weaksam.config import UserError, fingerprint_of
from weaksam.models.backbones.colours import IMAGENET, ColourSettings, ColoursOfWeights, ImageNetColours, levels
from weaksam.models.backbones.detectron2_files import conventions_of_file, read_resnet
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.sam.nano.segmenter import BUNDLED
from weaksam.store.files import file_sha256, hash_file, same_bytes
from weaksam.store.listed_files import listed_bytes
from weaksam.store.weights import load_state

_IN_CAFFE = ("vgg16", "resnet50")
"""Networks whose weights are handed around in Caffe's colours, too."""


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
        with same_bytes(path, settings.weights_sha256 or file_sha256(path)):
            hash_file(digest, path)
    if settings.adapted is not None:
        digest.update(listed_bytes(settings.adapted))
    colours = input_colours(settings)
    if colours != IMAGENET:
        digest.update(fingerprint_of(colours).encode())
    if stride_in(settings) == "1x1":
        digest.update(b"stride in 1x1")
    return digest.hexdigest()


def pinned_backbone(settings: BackboneSettings) -> BackboneSettings:
    """The same settings, bound to the bytes that a file of weights has now: later ones are refused as `ChangedFile`.

    Weights that are torchvision's, bundled or none are left as they are, and so is a file that is not there.
    """
    bundled = settings.name == "sam_nano" and settings.weights == "imagenet"
    named = settings.weights == "none" or bundled or _torchvision_weights(settings) is not None
    path = Path(settings.weights)
    if named or not path.is_file():
        return settings
    return settings.model_copy(update={"weights_sha256": file_sha256(path)})


def input_colours(settings: BackboneSettings) -> ColourSettings:
    """The colours that the backbone wants of every photo: those that are set, else those of its weights.

    Of its weights are known those that torchvision states for its own, named as torchvision does or in a file that
    kept its name, and those of detectron2's .pkl files; ImageNet's are taken for every other file.
    """
    if not isinstance(settings.colours, ColoursOfWeights):
        return settings.colours
    published = None if settings.name == "sam_nano" else _torchvision_weights(settings) or _weights_of_file(settings)
    if published is not None:
        return published_colours(published)
    conventions = conventions_of_file(Path(settings.weights))
    return IMAGENET if conventions is None else conventions.colours


def stride_in(settings: BackboneSettings) -> Literal["1x1", "3x3"]:
    """Which convolution of resnet50's blocks holds the stride: as is set, else as the weights' file is known to want.

    Other networks have no choice: 3x3.
    """
    if settings.name != "resnet50":
        return "3x3"
    if settings.stride_in != "auto":
        return settings.stride_in
    conventions = conventions_of_file(Path(settings.weights))
    return "3x3" if conventions is None else conventions.stride_in


def colours_note(settings: BackboneSettings, key: str = "backbone") -> str | None:
    """A sentence where the colours of a file are a guess: networks that Caffe's weights exist of; None elsewhere.

    ``key``: the settings' name in a run.
    """
    guessed = isinstance(settings.colours, ColoursOfWeights) and settings.name in _IN_CAFFE
    if not guessed or settings.weights == "none" or _torchvision_weights(settings) or _weights_of_file(settings):
        return None
    if conventions_of_file(Path(settings.weights)):
        return None
    return (
        f"{key}: photos are shown in ImageNet's colours, as {settings.weights} does not say which it wants; "
        f"weights that come from Caffe want {key}.colours=caffe, others can be told {key}.colours=imagenet"
    )


def published_colours(weights: torchvision.models.WeightsEnum) -> ColourSettings:
    """The colours that torchvision states for weights of its own."""
    preset = weights.transforms()
    return ImageNetColours(mean=levels(preset.mean), deviation=levels(preset.std))


def published_state(settings: BackboneSettings) -> dict[str, Tensor] | None:
    """Every tensor of the weights that ``settings`` name, the classifier's too; None for ``none``.

    For torchvision's networks alone. Raises:
        UserError: the file or the download cannot be had.
    """
    if settings.weights == "none":
        return None
    published = _torchvision_weights(settings)
    if published is not None:
        return _download(settings.name, published)
    path, what = Path(settings.weights), f"backbone {settings.name}"
    if path.suffix != ".pkl":
        return load_state(path, what, settings.weights_sha256)
    with nullcontext() if settings.weights_sha256 is None else same_bytes(path, settings.weights_sha256):
        return read_resnet(path, what).state


def _torchvision_weights(settings: BackboneSettings) -> torchvision.models.WeightsEnum | None:
    """Torchvision's weights that ``settings`` name; None where they name a file or the network is none of its own."""
    if settings.name == "sam_nano":
        return None
    name = "IMAGENET1K_V1" if settings.weights == "imagenet" else settings.weights.upper()
    return torchvision.models.get_model_weights(settings.name).__members__.get(name)


def _weights_of_file(settings: BackboneSettings) -> torchvision.models.WeightsEnum | None:
    """Torchvision's weights whose download bears the name of the given file; None for any other file."""
    name = Path(settings.weights).name
    known = torchvision.models.get_model_weights(settings.name)
    return next((weights for weights in known if Path(weights.url).name == name), None)


def _download(name: str, weights: torchvision.models.WeightsEnum) -> dict[str, Tensor]:
    """Torchvision's own weights, from its cache or the network."""
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"The ImageNet weights of {name} were to be downloaded from {weights.url}, which could not be done "
            f"({error}): fetch that file elsewhere and set backbone.weights to its path."
        ) from error
