"""Load a network of the SAM families that transformers maintains, and account for every tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn

from weaksam.config import UserError, fingerprint_of
from weaksam.sam.protocol import NUM_MASKS
from weaksam.sam.transformers.bounds import refuse_larger_config, refuse_wild_config
from weaksam.sam.transformers.files import ModelSource, first_line, read_json, weight_files
from weaksam.sam.transformers.networks import load_reported
from weaksam.sam.transformers.sam_hq import repair_sam_hq
from weaksam.store.files import file_sha256, unchanged_files


@dataclass(frozen=True)
class Family:
    """One architecture: its name in reports, and transformers' classes for its network and its preprocessing.

    ``padded``: a photo keeps its proportions and is padded to a square, else it is stretched to one.
    """

    name: str
    network: str
    processor: str
    padded: bool = False


_SAM2 = Family("sam2", "Sam2Model", "Sam2ImageProcessor")
_EDGETAM = Family("edgetam", "EdgeTamModel", "Sam2ImageProcessor")
_SAM3 = Family("sam3_tracker", "Sam3TrackerModel", "Sam3ImageProcessor")
FAMILIES = {
    "sam": Family("sam", "SamModel", "SamImageProcessor", padded=True),
    "sam_hq": Family("sam_hq", "SamHQModel", "SamImageProcessor", padded=True),
    "sam2": _SAM2,
    "sam2_video": _SAM2,
    "edgetam": _EDGETAM,
    "edgetam_video": _EDGETAM,
    "sam3_tracker": _SAM3,
    "sam3_tracker_video": _SAM3,
    "sam3_video": _SAM3,
}
"""By the ``model_type`` of config.json. A video model holds the photo model and the parts of its memory, which are not
read; the published SAM 2 and EdgeTAM checkpoints are such, and SAM 3's holds its detector too."""

POSITIONS = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")

VARIANTS = {
    (768, 12): "vit_b",
    (1024, 24): "vit_l",
    (1280, 32): "vit_h",
    (96, 12): "hiera_tiny",
    (96, 16): "hiera_small",
    (112, 24): "hiera_base_plus",
    (144, 48): "hiera_large",
}
"""The published image encoders by width (of the first stage) and number of blocks."""


@dataclass(frozen=True)
class HfModel:
    """A frozen network and its preprocessing; ``image_size`` is the side of the square input in pixels."""

    network: nn.Module
    processor: Any
    family: Family
    image_size: int
    name: str
    fingerprint: str


def load_model(source: ModelSource) -> HfModel:
    """Read the model in ``source``, float32, on the CPU.

    Raises:
        UserError: a file is missing or broken, the architecture is none of ours, a library that it needs is not
            installed, or the weights or the preprocessing belong to another variant.
    """
    config = read_json(source, "config.json")
    family = family_of(config, source)
    preprocessing = read_preprocessing(source)
    refuse_wild_config(config, source)
    paths = weight_files(source)
    with unchanged_files(*paths), quiet_transformers():
        hashes = {path.name: file_sha256(path) for path in paths}
        refuse_larger_config(_class(family.network, source), source, paths, family.name)
        network = _read_network(family, source)
        processor = _read_processor(family, source, preprocessing)
    image_size = _check_sizes(network.config, processor, family, source)
    if family.name == "sam_hq":
        repair_sam_hq(network.mask_decoder)
    facts = {
        "algorithm": "transformers-1",
        "family": family.name,
        "config": {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")},
        "preprocessing": preprocessing,
        "weights": hashes,
    }
    frozen = network.eval().requires_grad_(False)
    return HfModel(frozen, processor, family, image_size, _name(family, network.config), fingerprint_of(facts))


def family_of(config: dict[str, Any], source: ModelSource) -> Family:
    """The family that config.json names; a ``UserError`` for one that answers no points or boxes."""
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise UserError(
        f"A promptable model ({', '.join(FAMILIES)}) was wanted in {source.name}, but its config.json has model_type "
        f"{model_type!r}: give a model of one of these types."
    )


def read_preprocessing(source: ModelSource) -> dict[str, Any]:
    """Settings of the image processor, from where transformers looks for them: processor_config.json first."""
    if (source.folder / "processor_config.json").is_file():
        nested = read_json(source, "processor_config.json").get("image_processor")
        if isinstance(nested, dict):
            return nested
    return read_json(source, "preprocessor_config.json")


def _class(name: str, source: ModelSource) -> Any:
    """A class of transformers, which is imported here first: it takes seconds."""
    if name == "EdgeTamModel" and find_spec("timm") is None:
        raise UserError(
            f"{source.name} is an EdgeTAM model, whose image encoder comes from the package timm, which is not "
            "installed: pip install timm."
        )
    return getattr(import_module("transformers"), name)


def _read_network(family: Family, source: ModelSource) -> Any:
    """The network with the weights of the folder in it, or a ``UserError`` if they do not fit one to one."""
    network, report = load_reported(_class(family.network, source), source, f"{family.name} model")
    missing = _share_positions(network, set(report["missing_keys"]))
    extra = sorted(report["unexpected_keys"])
    misshapen = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if missing or extra or misshapen or report["error_msgs"]:
        examples = ", ".join(f"'{key}'" for key in (missing[:1] + extra[:1] + misshapen[:1]))
        raise UserError(
            f"The weights in {source.name} are not of the {family.name} variant that its config.json describes: they "
            f"lack {len(missing)} tensors, bring {len(extra)} unknown ones and {len(misshapen)} of another shape (for "
            f"example {examples}); give weights and config.json of the same model."
        )
    return network


def _read_processor(family: Family, source: ModelSource, preprocessing: dict[str, Any]) -> Any:
    """The image processor with these settings, or a ``UserError`` if they are not of its kind."""
    try:
        return _class(family.processor, source).from_dict(preprocessing)
    except Exception as error:  # transformers checks the settings one by one, each in its own way
        raise UserError(
            f"The preprocessing in {source.name} is not that of a {family.name} model ({first_line(error)}): give "
            "preprocessor_config.json and config.json of the same model."
        ) from error


def _share_positions(network: nn.Module, missing: set[str]) -> list[str]:
    """What is ``missing`` still, sorted, when image and prompts share one encoding of positions, as they should.

    Some files hold it once, and not every version of transformers copies it to the other name by itself.
    """
    absent = missing.intersection(POSITIONS)
    if len(absent) != 1:
        return sorted(missing)
    state, (there,) = network.state_dict(), set(POSITIONS) - absent
    state[next(iter(absent))].copy_(state[there])
    return sorted(missing - absent)


def _check_sizes(config: Any, processor: Any, family: Family, source: ModelSource) -> int:
    """The side of the square input, on which network and preprocessing must agree; three masks are wanted besides."""
    wanted = config.prompt_encoder_config.image_size
    square = processor.pad_size if family.padded else processor.size
    sides = {getattr(square, "height", None), getattr(square, "width", None)}
    if family.padded:
        sides.add(getattr(processor.size, "longest_edge", None))
    if sides != {wanted}:
        produced = " and ".join(sorted(str(side) for side in sides))
        raise UserError(
            f"The preprocessing in {source.name} makes images of {produced} pixels, but its network takes {wanted}: "
            "give preprocessor_config.json and config.json of the same model."
        )
    if config.mask_decoder_config.num_multimask_outputs != NUM_MASKS:
        raise UserError(
            f"A model that answers {NUM_MASKS} masks was wanted in {source.name}, but its config.json has "
            f"num_multimask_outputs {config.mask_decoder_config.num_multimask_outputs}: give another model."
        )
    return int(wanted)


def _name(family: Family, config: Any) -> str:
    """Family and variant in one word: ``sam_vit_b``, ``sam2_hiera_tiny``; width and depth where it is no known one."""
    vision = config.vision_config
    backbone = getattr(vision, "backbone_config", None) or vision
    if hasattr(backbone, "architecture"):
        return f"{family.name}_{backbone.architecture}"
    if hasattr(backbone, "blocks_per_stage"):
        shape = (backbone.embed_dim_per_stage[0], sum(backbone.blocks_per_stage))
    else:
        shape = (backbone.hidden_size, backbone.num_hidden_layers)
    return f"{family.name}_{VARIANTS.get(shape, f'{shape[0]}x{shape[1]}')}"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers without its tables and progress bars: what they say, we say in one sentence or not at all."""
    log = import_module("transformers.utils.logging")
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
