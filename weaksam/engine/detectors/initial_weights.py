"""Start a detector from given weights: a folder that a training sealed, a file of ours, or a published detector."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from weaksam.config import UserError, fingerprint_of
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.dino import TrainableDinoSettings
from weaksam.engine.detectors.training import TrainableSettings, TrainingSettings
from weaksam.engine.training_state import load_sealed, sealed_sha256
from weaksam.models.backbones.colours import ColoursOfWeights
from weaksam.models.backbones.detectron2_files import Conventions
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import backbone_fingerprint, pinned_backbone
from weaksam.models.detectors.dino.network import DinoNetwork
from weaksam.models.detectors.dino.starting import load_dino_weights
from weaksam.models.detectors.first_weights import FirstWeights, load_first_weights
from weaksam.models.detectors.published import PublishedDetector, read_published
from weaksam.store.files import file_sha256, same_bytes
from weaksam.store.weights import read_metadata
from weaksam.terminal import say

TrainingT = TypeVar("TrainingT", bound=TrainingSettings)
_FILES = (".safetensors", ".pth", ".pkl")


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a detector starts from."""

    path: Path
    sha256: str
    """Of their file, in hex."""
    state: dict[str, Tensor]
    """Tensors by our names or by those of torchvision's detectors with ResNet-50."""
    conventions: Conventions | None = None
    """What a published detector expects; None for one of ours, which was trained with the settings of its run."""
    classes: tuple[str, ...] = ()
    """Names of the classes that they tell apart, in order; empty where the file does not say."""


def read_initial(
    path: Path, name: str, read: Callable[[Path, str], PublishedDetector] = read_published
) -> InitialWeights:
    """The weights at ``path``, ``init`` of the stage ``name``; ``read`` reads a file that no training sealed.

    Raises:
        UserError: no such file, a folder that no training sealed, damaged weights, or names that no detector has.
    """
    what = f"{name}.init ({path})"
    sealed = path / "weights.safetensors"
    if sealed.is_file() and (path / "manifest.json").is_file():
        return InitialWeights(path, sealed_sha256(sealed), load_sealed(sealed, what), classes=_classes_of(sealed))
    if not path.is_file() or path.suffix not in _FILES:
        raise UserError(
            f"{name}.init wants a file of weights ({', '.join(_FILES)}), or the folder of a finished training with "
            f"weights.safetensors and manifest.json, such as OUT/retrain/store/weights-*; found neither in {path}: "
            "name one of them"
        )
    sha256 = file_sha256(path)
    with same_bytes(path, sha256):
        detector = read(path, what)
    return InitialWeights(path, sha256, detector.state, detector.conventions, _classes_of(path))


def _classes_of(path: Path) -> tuple[str, ...]:
    """Names of the classes that a detector of ours, in a file that was read before, was trained on."""
    classes = read_metadata(path).get("classes") if path.suffix == ".safetensors" else None
    return tuple(map(str, classes)) if isinstance(classes, list) else ()


def initial_weights(settings: TrainingSettings, given: Path | None, name: str) -> InitialWeights | None:
    """The weights at ``given``, else those that ``settings`` name; None where neither is there."""
    path = given or settings.init
    return None if path is None else read_initial(path, name)


def detector_backbone(
    context: RunContext,
    settings: TrainableSettings | TrainableDinoSettings,
    initial: InitialWeights | None,
    name: str,
) -> BackboneSettings:
    """The detector's own backbone, else the run's; in the colours and with the strides of a published detector.

    What is set beats what the detector expects. Its weights replace those of the backbone, which are not read then.

    Raises:
        UserError: a published detector for another backbone or pyramid.
    """
    backbone = settings.backbone or context.backbone
    if initial is None or initial.conventions is None:
        return backbone
    if isinstance(settings, TrainableDinoSettings):
        require_resnet50(backbone, initial, name)
    elif backbone.name != "resnet50" or settings.pyramid != "full":
        raise UserError(
            f"{name}.init ({initial.path}) is a detector with resnet50 and a full pyramid, found {backbone.name} and a "
            f"{settings.pyramid} one: set {name}.backbone.name=resnet50 {name}.pyramid=full, with fpn_channels=256 and "
            "representation=1024"
        )
    return with_conventions(backbone, initial.conventions)


def with_conventions(backbone: BackboneSettings, conventions: Conventions) -> BackboneSettings:
    """The backbone of a published detector, whose own weights are not read; what is set beats what it expects."""
    colours, stride_in = conventions
    expected = {"colours": colours} if isinstance(backbone.colours, ColoursOfWeights) else {}
    expected |= {"stride_in": stride_in} if backbone.stride_in == "auto" else {}
    return backbone.model_copy(update={"weights": "none", "weights_sha256": None, "adapted": None, **expected})


def require_resnet50(backbone: BackboneSettings, initial: InitialWeights, name: str) -> None:
    """`UserError` where a published detector with ResNet-50 meets another ``backbone``."""
    if backbone.name != "resnet50":
        raise UserError(
            f"{name}.init ({initial.path}) is a detector with resnet50, found {backbone.name}: set "
            f"{name}.backbone.name=resnet50"
        )


def start_from(
    model: nn.Module, initial: InitialWeights | None, context: RunContext, name: str, new_classes: bool
) -> str:
    """Load weights into ``model`` where there are any, and say what is left out; SHA-256 (hex) of their file or none.

    The mask head of a Mask R-CNN that starts from a Faster R-CNN stays as it is. Raises:
        UserError: the weights of another detector, shape or number of classes.
    """
    if initial is None:
        return "none"
    first = FirstWeights(initial.state, f"{name}.init ({initial.path})", name, initial.classes)
    load = load_dino_weights if isinstance(model, DinoNetwork) else load_first_weights
    tell_notes(load(model, first, context.train.classes, new_classes=new_classes), context, name)
    return initial.sha256


def tell_notes(notes: Iterable[str], context: RunContext, name: str) -> None:
    """Say what of the first weights of stage ``name`` was left out, on the terminal and in the log."""
    for note in notes:
        say(note, error=True)
        context.log.write("initial weights", stage=name, note=note)


def with_pinned_backbone(settings: TrainingT) -> TrainingT:
    """The same settings; a backbone of their own is bound to the bytes that its file of weights has now."""
    own = settings.backbone
    return settings if own is None else settings.model_copy(update={"backbone": pinned_backbone(own)})


def given_inputs(settings: TrainingSettings, name: str) -> dict[str, str]:
    """Fingerprints of what ``settings`` name by path: a backbone and first weights; nothing where there are none."""
    inputs = {}
    if settings.backbone is not None:
        inputs[f"{name} backbone"] = backbone_fingerprint(settings.backbone)
    if settings.init is not None:
        inputs[f"{name} init"] = _sha256_of(settings.init)
    return inputs


def _sha256_of(path: Path) -> str:
    """Hash of the file of weights that ``path`` names or holds, or of a folder of files; words where it is neither."""
    sealed = path / "weights.safetensors"
    path = sealed if sealed.is_file() else path
    if path.is_dir():
        return folder_sha256(file for file in path.iterdir() if file.is_file())
    return file_sha256(path) if path.is_file() else "nothing there"


def folder_sha256(files: Iterable[Path]) -> str:
    """Hash over the names and bytes of ``files``."""
    return fingerprint_of({file.name: file_sha256(file) for file in files})
