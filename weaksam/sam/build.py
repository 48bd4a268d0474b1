"""Build the segmenter that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from weaksam.config import Settings, UserError
from weaksam.sam.protocol import EncoderPrecision, Segmenter
from weaksam.sam.region_tree.settings import RegionTreeSettings

OFFLINE_DEFAULT: Literal["tree", "nano"] = "tree"  # measured: benchmarks/proposal_recall.py

SERVED: dict[str, tuple[object, ...]] = {
    "precision": ("float32", "segment_anything", "transformers"),
    "decoding": ("exact", "segment_anything"),
    "compile": (False, "segment_anything"),
}
"""Settings that only some families serve: the default, then the families."""


class SegmenterSettings(Settings):
    """Which frozen segmenter answers the prompts."""

    _as_before: ClassVar[Mapping[str, Any]] = {"lora": None}

    family: Literal["auto", "nano", "tree", "segment_anything", "transformers"] = Field(
        default="auto",
        description="auto: as the weights tell (a folder or hub id: transformers, a file: segment_anything), without "
        "weights the better offline family",
    )
    weights: Path | None = Field(
        default=None,
        description="an official SAM .pth file; or a model of transformers, as its folder or hub id, such as "
        "facebook/sam2.1-hiera-tiny; or other weights of the nano family",
    )
    precision: EncoderPrecision = Field(
        default="float32",
        description="numbers in the image encoder of SAM and of the transformers family; bfloat16 takes half the time "
        "or less on CUDA and on processors that have it",
    )
    lora: Path | None = Field(
        default=None,
        description="low-rank updates that adapt the image encoder (lora.safetensors of weaksam adapt-sam); any family "
        "with a network",
    )
    compile: bool = Field(
        default=False, description="the image encoder of the segment_anything family through torch.compile, for CUDA"
    )
    decoding: Literal["exact", "fast"] = Field(
        default="exact",
        description="of the segment_anything family; fast measures photos larger than SAM's input at that size, so a "
        "box may be off by one of its pixels",
    )
    tree: RegionTreeSettings = Field(
        default=RegionTreeSettings(), description="settings of the region tree, if it is used"
    )


def build_segmenter(settings: SegmenterSettings, device: torch.device) -> Segmenter:
    """The segmenter of ``settings``, its weights on ``device`` (the region tree has none and runs on the CPU).

    Raises:
        UserError: the family needs weights and has none, needs none and has some, or they cannot be read.
    """
    family = family_of(settings)
    _check_served(settings, family)
    if family == "tree":
        if settings.lora is not None:
            raise UserError(
                f"wanted a segmenter with a network for segmenter.lora={settings.lora}, found the region tree, which "
                "has none: set segmenter.family or segmenter.weights to what was adapted"
            )
        return _region_tree(settings)
    if family == "nano":
        from weaksam.sam.nano.segmenter import SamNano

        return SamNano.load(settings.weights, device, lora=settings.lora)
    return _of_transformers(settings, device) if family == "transformers" else _official(settings, device)


def family_of(settings: SegmenterSettings) -> Literal["nano", "tree", "segment_anything", "transformers"]:
    """The family that the settings name, or the one that ``auto`` stands for."""
    if settings.family != "auto":
        return settings.family
    if settings.weights is None:
        return OFFLINE_DEFAULT
    from weaksam.sam.transformers.files import names_transformers_model

    return "transformers" if names_transformers_model(settings.weights) else "segment_anything"


def _check_served(settings: SegmenterSettings, family: str) -> None:
    """Refuse a setting that the family does not serve, see ``SERVED``."""
    for key, (default, *served) in SERVED.items():
        if (value := getattr(settings, key)) != default and family not in served:
            raise UserError(
                f"segmenter.{key}={value} is only for the family {' or '.join(map(str, served))}, but the family is "
                f"{family}: remove it."
            )


def _region_tree(settings: SegmenterSettings) -> Segmenter:
    if settings.weights is not None:
        raise UserError(
            f"The region tree takes no weights, but segmenter.weights is {settings.weights}: remove it, or set "
            "segmenter.family=segment_anything."
        )
    from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter  # here, as higra takes a second to import

    return RegionTreeSegmenter(settings.tree)


def _official(settings: SegmenterSettings, device: torch.device) -> Segmenter:
    if settings.weights is None:
        raise UserError(
            "segmenter.family=segment_anything needs a checkpoint, but segmenter.weights is empty: set it to an "
            "official sam_vit_b, sam_vit_l or sam_vit_h .pth file."
        )
    from weaksam.sam.official.segmenter import SegmentAnything

    return SegmentAnything.load(
        settings.weights, device, settings.decoding, settings.precision, compiled=settings.compile, lora=settings.lora
    )


def _of_transformers(settings: SegmenterSettings, device: torch.device) -> Segmenter:
    if settings.weights is None:
        raise UserError(
            "segmenter.family=transformers needs a model, but segmenter.weights is empty: set it to the folder of one, "
            "or to a hub id such as facebook/sam2.1-hiera-tiny."
        )
    from weaksam.sam.transformers.segmenter import TransformersSam

    return TransformersSam.load(settings.weights, device, settings.precision, settings.lora)
