"""Read published weights of Mask2Former: a folder that transformers wrote, or detectron2's file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.models.backbones.colours import IMAGENET_MEAN, IMAGENET_STD
from weaksam.models.backbones.detectron2_files import TORCHVISION, Conventions, read_arrays
from weaksam.models.detectors.mask2former.names import names_of_detectron2, names_of_transformers
from weaksam.models.detectors.published import PublishedDetector
from weaksam.sam.transformers.bounds import refuse_larger_config, refuse_wild_config
from weaksam.sam.transformers.files import ModelSource, read_json, weight_files
from weaksam.sam.transformers.models import quiet_transformers
from weaksam.sam.transformers.networks import read_network
from weaksam.store.weights import load_state

_CLASS = "Mask2FormerForUniversalSegmentation"
_BODIES = ("swin", "resnet")


def is_transformers_folder(path: Path) -> bool:
    """Whether ``path`` is a folder that transformers wrote."""
    return (path / "config.json").is_file()


def published_files(path: Path, what: str) -> tuple[Path, ...]:
    """The files of a folder that transformers wrote which decide what is loaded.

    Raises:
        UserError: some lack, or the folder holds another model.
    """
    source = ModelSource(str(path), path)
    _config(source, what)
    preprocessing = path / "preprocessor_config.json"
    return (path / "config.json", *([preprocessing] if preprocessing.is_file() else []), *weight_files(source))


def read_published_folder(path: Path, what: str) -> PublishedDetector:
    """A Mask2Former with its tensors by our names, from a folder that transformers wrote.

    Its ``conventions`` are ImageNet's colours, and for a ResNet where the stride is. ``what`` names the wanted weights
    in the error. Raises:
        UserError: the folder is incomplete, another model or damaged, or wants other colours than ImageNet's.
    """
    source = ModelSource(str(path), path)
    config = _config(source, what)
    body = config.get("backbone_config")
    refuse_wild_config(config, source)
    _require_imagenet(source, what)
    paths = weight_files(source)
    with quiet_transformers():
        network_class = getattr(import_module("transformers"), _CLASS)
        refuse_larger_config(network_class, source, paths, "Mask2Former")
        network = read_network(source, _CLASS, not_read=r".*swin\.layernorm\..*|criterion\.empty_weight")
    stride_in = "1x1" if isinstance(body, dict) and body.get("downsample_in_bottleneck") else "3x3"
    conventions = Conventions(TORCHVISION.colours, stride_in)  # type: ignore[arg-type]
    return PublishedDetector(names_of_transformers(network.state_dict(), what), conventions)


def _config(source: ModelSource, what: str) -> dict[str, Any]:
    """What config.json says of a Mask2Former; `UserError` where it says something else."""
    config = read_json(source, "config.json")
    body = config.get("backbone_config")
    kind = body.get("model_type", "swin") if isinstance(body, dict) else "swin"
    if config.get("model_type") != "mask2former" or kind not in _BODIES:
        raise UserError(
            f"{what} wants a Mask2Former with {' or '.join(_BODIES)}, found model_type {config.get('model_type')!r} "
            f"with {kind!r} in its config.json: give another folder"
        )
    return config


def _require_imagenet(source: ModelSource, what: str) -> None:
    """`UserError` where the folder says that its network wants other colours than ImageNet's."""
    if not (source.folder / "preprocessor_config.json").is_file():
        return
    preprocessing: dict[str, Any] = read_json(source, "preprocessor_config.json")
    for name, levels in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
        stated = preprocessing.get(name, levels)
        if not isinstance(stated, list | tuple) or [f"{level:.2f}" for level in stated] != [f"{x:.2f}" for x in levels]:
            raise UserError(
                f"{what} wants a network for ImageNet's colours, found {name} {str(stated)[:60]} in its "
                "preprocessor_config.json: give another folder"
            )


def read_published_file(path: Path, what: str) -> PublishedDetector:
    """A Mask2Former from detectron2's ``.pkl`` or ``.pth`` file, or a file of ours (``conventions`` None).

    ``what`` names the wanted weights in the error. Raises:
        UserError: the file is missing, damaged or no weights, or holds a published name that has no place.
    """
    state = read_arrays(path, what) if path.suffix == ".pkl" else load_state(path, what)
    if any(key.startswith("sem_seg_head.") for key in state):
        return PublishedDetector(names_of_detectron2(state, what), TORCHVISION)
    if any(key.startswith("model.transformer_module.") for key in state):
        return PublishedDetector(names_of_transformers(state, what), TORCHVISION)
    return PublishedDetector(state, None)
