"""Start the detector's backbone from the one that the weak detector trained on the tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from weaksam.config import Settings, UserError
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.result import DetectorResult
from weaksam.engine.training_state import load_sealed
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.ranks import ranks
from weaksam.store.listed_files import is_listed, list_file, listed_bytes
from weaksam.store.weights import save_weights

_TRUNK = "trunk."
"""Where the weights of the weak detector that is trained end to end hold its backbone."""


class StartSettings(Settings):
    """What the backbone of the retrained detector starts from."""

    _as_before: ClassVar[Mapping[str, Any]] = {"start": "backbone"}

    start: Literal["backbone", "weak"] = "backbone"
    """What the backbone starts from: the run's own (or ``backbone`` here), or ``weak``: that of the weak detector after
    its training on the tags (mode end_to_end), else the one that the clue stage fine-tuned on them."""


def started(
    context: RunContext,
    start: Literal["backbone", "weak"],
    own: BackboneSettings | None,
    weak_detector: DetectorResult | None,
    name: str,
) -> RunContext:
    """The context whose backbone the training of stage ``name`` starts from by ``start``.

    ``own``: the backbone that the stage's settings name beside the run's. Of the weak detector that trained the whole
    network its backbone lies as ``backbone.safetensors`` beside its weights. Raises:
        UserError: no weak detector, one that trained no backbone, a backbone of the stage's own, or a damaged file.
    """
    if start == "backbone":
        return context
    if own is not None:
        raise UserError(
            f"{name}.start=weak wants the weak detector's own network, found {name}.backbone ({own.name}) beside it: "
            f"take {name}.start=backbone, or leave {name}.backbone out"
        )
    if weak_detector is None:
        raise UserError(f"{name}.start=weak wants a weak detector, found none: take {name}.start=backbone")
    state = load_sealed(weak_detector.weights, "the weak detector")
    trunk = {key.removeprefix(_TRUNK): value for key, value in state.items() if key.startswith(_TRUNK)}
    if not trunk:
        if context.backbone.adapted is not None:
            return context  # the clue stage trained it, and the frozen weak detector reads it
        raise UserError(
            f"{name}.start=weak wants a backbone that the tags trained, found a frozen one: set wsod.mode=end_to_end "
            f"or clues.finetune_epochs, or take {name}.start=backbone"
        )
    path = weak_detector.weights.with_name("backbone.safetensors")
    if ranks().first and not is_listed(path):
        save_weights(path, trunk, {"fingerprint": weak_detector.fingerprint})
        list_file(path)
    ranks().wait()  # until the file is there
    listed_bytes(path)  # which were written, or a sentence
    return replace(context, backbone=weak_detector.backbone.model_copy(update={"adapted": path}))
