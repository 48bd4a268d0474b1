"""Keep the network of a finished stage as one file that `weaksam.load` and ``weaksam predict`` take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from weaksam.engine.detectors.result import DetectorResult
from weaksam.engine.seeds import derive_seed
from weaksam.engine.training_state import load_sealed
from weaksam.models.backbones.features import build_features
from weaksam.pipeline.state import Run
from weaksam.prediction.checkpoint import (
    NAME,
    AnyDetectorSettings,
    Architecture,
    Checkpoint,
    CheckpointHeader,
    ProposalMaking,
    is_written,
    used_backbone,
    used_settings,
)
from weaksam.stages.proposals import ProposalSettings
from weaksam.stages.retrain import DinoRetrainSettings
from weaksam.stages.wsis.settings import Mask2FormerWsisSettings
from weaksam.stages.wsod.extent import extent_inputs, extent_key
from weaksam.store.store import Store, store_folder

State = Mapping[str, Tensor]


def keep_weak_detector(run: Run, proposals: Store, result: DetectorResult) -> None:
    """Write ``OUT/wsod/checkpoint.safetensors``; on frozen features it holds the backbone too.

    ``proposals``: those of the training photos, by which the extent of objects was learnt.
    """
    settings = run.settings.wsod
    if settings.mode == "frozen":
        _keep(
            run, "wsod", "weak_frozen", settings, result, lambda: _frozen_state(run, proposals, result), proposing=True
        )
    else:
        _keep(run, "wsod", "weak_end_to_end", settings, result, lambda: _sealed(result), proposing=True)


def keep_detector(run: Run, result: DetectorResult) -> None:
    """Write ``OUT/retrain/checkpoint.safetensors``: the retrained network alone, whatever detections were chosen.

    A network of another engine has its own files and none.
    """
    settings = run.retrain
    if settings.engine != "weaksam":
        return
    if isinstance(settings, DinoRetrainSettings):
        _keep(run, "retrain", "dino", settings, result, lambda: _sealed(result))
        return
    proposing = settings.given_proposals > 0
    _keep(run, "retrain", "faster_rcnn", settings, result, lambda: _sealed(result), proposing)


def keep_instance_segmenter(run: Run, result: DetectorResult) -> None:
    """Write ``OUT/wsis/checkpoint.safetensors``."""
    settings = run.wsis
    is_mask2former = isinstance(settings, Mask2FormerWsisSettings)
    architecture: Architecture = "mask2former" if is_mask2former else "mask_rcnn"
    _keep(run, "wsis", architecture, settings, result, lambda: _sealed(result))


def _keep(
    run: Run,
    stage: str,
    architecture: Architecture,
    settings: AnyDetectorSettings,
    result: DetectorResult,
    state_of: Callable[[], State],
    proposing: bool = False,
) -> None:
    """Write the checkpoint of a stage where it does not lie there yet."""
    header = CheckpointHeader(
        architecture=architecture,
        classes=run.context.train.classes,
        category_ids=run.context.train.category_ids,
        backbone=used_backbone(result.backbone),
        detector=used_settings(settings),
        proposals=_proposal_making(run) if proposing else None,
        licence=_licence(run, result),
        fingerprint=result.fingerprint,
    )
    path = run.context.out / stage / NAME
    if not is_written(path, header):
        Checkpoint(header, settings, state_of()).write(path)


def _sealed(result: DetectorResult) -> State:
    """The tensors of the trained network."""
    return load_sealed(result.weights, "the trained network")


def _frozen_state(run: Run, proposals: Store, result: DetectorResult) -> State:
    """Tensors of the head, of the frozen backbone below it and, where boxes move by it, of the learnt extent.

    The backbone is drawn as the stage did where it has no weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(run.context.seed, "wsod", "weights"))
        backbone = build_features(result.backbone).state_dict()
    parts = {"head.": _sealed(result), "backbone.": backbone}
    settings = run.settings.wsod.extent
    if settings.share > 0:
        key = extent_key(settings, extent_inputs(result.fingerprint, proposals), "wsod")
        folder = store_folder(run.context.out, "wsod", "extent", key)
        extent = load_sealed(folder / "weights.safetensors", "the extent of objects")
        parts["extent."] = {"of_all": extent["of_all"]}  # a new photo is in no fold
    return {prefix + name: value for prefix, state in parts.items() for name, value in state.items()}


def _proposal_making(run: Run) -> ProposalMaking:
    """How the run makes proposals; where it was given some, by the default rules."""
    settings = run.settings.proposals
    if settings.given.folders:
        settings = ProposalSettings(max_proposals=settings.max_proposals)
    return ProposalMaking(
        segmenter=run.settings.segmenter, segmenter_fingerprint=run.segmenter.fingerprint, proposals=settings
    )


def _licence(run: Run, result: DetectorResult) -> str:
    """Whose terms hold for the weights, in a sentence."""
    backbone = result.backbone
    return (
        "weaksam is under Apache-2.0, its weights are under no licence of their own: the terms of what they were made "
        f"with hold, the training photos, the backbone {backbone.name} (weights: {backbone.weights}) and the "
        f"segmenter {run.segmenter.name}"
    )
