"""Write and read a checkpoint: one safetensors file that says all that is needed to detect with its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from weaksam import __version__
from weaksam.config import Settings, UserError, settings_from
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import input_colours, stride_in
from weaksam.sam.build import SegmenterSettings
from weaksam.stages.proposals import ProposalSettings
from weaksam.stages.retrain import DinoRetrainSettings, RetrainSettings
from weaksam.stages.wsis.settings import Mask2FormerWsisSettings, WsisSettings
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.store.weights import check_weights, load_state, read_metadata, save_weights

Architecture = Literal["weak_frozen", "weak_end_to_end", "faster_rcnn", "dino", "mask_rcnn", "mask2former"]
AnyDetectorSettings = WsodSettings | RetrainSettings | DinoRetrainSettings | WsisSettings | Mask2FormerWsisSettings
SETTINGS_OF: Mapping[str, type[Settings]] = {
    "weak_frozen": WsodSettings,
    "weak_end_to_end": WsodSettings,
    "faster_rcnn": RetrainSettings,
    "dino": DinoRetrainSettings,
    "mask_rcnn": WsisSettings,
    "mask2former": Mask2FormerWsisSettings,
}
"""The settings of each architecture's stage."""
KIND = "weaksam checkpoint"
FORMAT = 1
"""Version of the metadata's layout."""
NAME = "checkpoint.safetensors"
"""What the file is called in the folder of its stage."""


class ProposalMaking(Settings):
    """How the proposals of a photo are made, for detectors that want some."""

    segmenter: SegmenterSettings = Field(SegmenterSettings(), description="the frozen segmenter")
    segmenter_fingerprint: str = Field("", description="of the segmenter that made those of the training")
    proposals: ProposalSettings = Field(ProposalSettings(), description="its prompts and their suppression")


class CheckpointHeader(Settings):
    """What a checkpoint says of its tensors; all of it is JSON in the header of the file."""

    kind: Literal["weaksam checkpoint"] = "weaksam checkpoint"
    format: Literal[1] = 1
    weaksam: str = Field(__version__, description="version that wrote the file")
    architecture: Architecture
    classes: tuple[str, ...] = Field(description="their names by label")
    category_ids: tuple[int, ...] = Field(description="their numbers in COCO files, by label")
    backbone: BackboneSettings = Field(description="the network below, its colours and strides; the tensors are here")
    detector: dict[str, Any] = Field(description="settings of the stage: sizes, thresholds, widths")
    proposals: ProposalMaking | None = Field(None, description="how proposals are made; none: it needs none")
    licence: str = Field("", description="whose terms hold for the weights")
    fingerprint: str = Field("", description="hex of all that decided the weights")


@dataclass(frozen=True)
class Checkpoint:
    """A network as it lies in a file, before it is built."""

    header: CheckpointHeader
    settings: AnyDetectorSettings
    """`CheckpointHeader.detector`, checked."""
    state: Mapping[str, Tensor]
    """Tensors by name: the network's own; of ``weak_frozen`` those of ``head.``, ``backbone.`` and ``extent.``."""
    path: Path | None = None

    def write(self, path: Path) -> None:
        """Write the file atomically; the same checkpoint always gives the same bytes."""
        save_weights(path, self.state, self.header.model_dump(mode="json"))


def is_written(path: Path, header: CheckpointHeader) -> bool:
    """Whether a whole checkpoint of this very header lies at ``path``."""
    try:
        load_state(path, "the checkpoint")
        return read_metadata(path) == header.model_dump(mode="json")
    except (UserError, OSError, SafetensorError):
        return False


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that a stage wrote at ``path``.

    Raises:
        UserError: no file, a damaged one, weights that say nothing of their network, or a checkpoint that this version
            does not know.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(
            f"wanted a checkpoint, found the folder {path}: name the file {NAME} of a stage, such as OUT/retrain/{NAME}"
        )
    check_weights(path, "a checkpoint")
    metadata = _metadata(path)
    if metadata.get("kind") != KIND:
        raise UserError(
            f"wanted a checkpoint of weaksam in {path}, found {_what_else(metadata)}: name the file {NAME} that "
            "wsod, retrain or wsis wrote, as OUT/retrain/" + NAME
        )
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"wanted a checkpoint of format {FORMAT} in {path}, found format {str(metadata.get('format'))[:20]} of "
            f"weaksam {str(metadata.get('weaksam'))[:20]} (this is {__version__}): use that version, or rerun the stage"
        )
    header = settings_from(CheckpointHeader, metadata, f"{path}, written by weaksam {str(metadata['weaksam'])[:20]}")
    settings = settings_from(SETTINGS_OF[header.architecture], header.detector, f"the settings in {path}")
    _refuse_wrong_classes(header, path)
    return Checkpoint(header, cast(AnyDetectorSettings, settings), load_state(path, f"the checkpoint {path}"), path)


def _metadata(path: Path) -> dict[str, Any]:
    """What the file says of itself; nothing for a file of another kind."""
    try:
        return read_metadata(path)
    except (SafetensorError, OSError):
        return {}


def _what_else(metadata: Mapping[str, Any]) -> str:
    """What a file without our kind is, in words."""
    if "fingerprint" in metadata and "label" in metadata:
        return f"the bare weights of the training {str(metadata['label'])[:40]!r}, which do not say how they are used"
    return "a file that does not say it is one"


def _refuse_wrong_classes(header: CheckpointHeader, path: Path) -> None:
    """`UserError` where classes and their numbers cannot be those of a network."""
    num = len(header.classes)
    if num == 0 or len(set(header.classes)) < num or len(set(header.category_ids)) != num:
        raise UserError(
            f"wanted class names, each once and with a number of its own, in {path}, found {num} names and "
            f"{len(header.category_ids)} numbers: rerun the stage that wrote it"
        )


def used_backbone(settings: BackboneSettings) -> BackboneSettings:
    """The backbone as a checkpoint names it: its colours and strides spelt out, no file of weights."""
    return BackboneSettings(
        name=settings.name,
        weights="none",
        colours=input_colours(settings),  # type: ignore[arg-type]
        stride_in=stride_in(settings) if settings.name == "resnet50" else "auto",
    )


def used_settings(settings: AnyDetectorSettings) -> dict[str, Any]:
    """The settings of a stage as a checkpoint holds them: no path of what the training started from."""
    started_from = {name: None for name in ("init", "backbone") if name in type(settings).model_fields}
    values: dict[str, Any] = settings.model_copy(update=started_from).model_dump(mode="json")
    return values
