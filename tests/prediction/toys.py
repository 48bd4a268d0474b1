"""Checkpoints of every architecture at toy size, with random weights."""

from __future__ import annotations

from typing import Any

import torch

from weaksam.engine.context import RunContext
from weaksam.engine.log import RunLog
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.prediction.checkpoint import (
    Checkpoint,
    CheckpointHeader,
    ProposalMaking,
    used_backbone,
    used_settings,
)
from weaksam.sam.build import SegmenterSettings
from weaksam.stages.proposals import ProposalSettings
from weaksam.stages.retrain.settings import DinoRetrainSettings, RetrainSettings
from weaksam.stages.wsis.settings import Mask2FormerWsisSettings, WsisSettings
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.structures.dataset import Dataset

CLASSES = ("cat", "dog")
NUMBERS = (3, 7)
SIDES = {"short_side": 64, "long_side": 96}
RCNN = {"fpn_channels": 8, "representation": 8, "rpn_pre_nms": 50, "rpn_post_nms": 20, "max_boxes": 5, "min_score": 0.0}
DINO = {"embed_dims": 16, "num_heads": 2, "ffn_dims": 16, "norm_groups": 4, "num_queries": 10, "max_boxes": 5}
MASK2FORMER = {"channels": 32, "encoder_layers": 1, "decoder_layers": 2, "num_heads": 2, "num_queries": 6}
ARCHITECTURES = ("weak_frozen", "weak_end_to_end", "faster_rcnn", "dino", "mask_rcnn", "mask2former")


def settings_of(architecture: str, **more: Any) -> Any:
    """Toy settings of a stage."""
    if architecture in ("weak_frozen", "weak_end_to_end"):
        sizes = {"long_side": 64, "num_proposals": 12, "hidden": 16, "reduced": 8, "roi_size": 3, "min_score": 0.0}
        sizes |= {"end_to_end": EndToEndSettings(test_short_sides=(64,), most_long_side=96)}
        return WsodSettings(**{"mode": architecture.removeprefix("weak_"), **sizes, **more})
    if architecture == "faster_rcnn":
        return RetrainSettings(**{**SIDES, **RCNN, **more})
    if architecture == "dino":
        layers = {"encoder_layers": 1, "decoder_layers": 1, "min_score": 0.0}
        return DinoRetrainSettings(**{**SIDES, **DINO, **layers, **more})
    if architecture == "mask_rcnn":
        return WsisSettings(**{**SIDES, **RCNN, "mask_channels": 8, "mask_layers": 1, **more})
    return Mask2FormerWsisSettings(**{**SIDES, **MASK2FORMER, "encoder_width": 16, "decoder_width": 16, **more})


def toy_checkpoint(architecture: str, seed: int = 0, **more: Any) -> Checkpoint:
    """A checkpoint with random weights that follow from ``seed``; ``more`` are settings of its stage."""
    settings = settings_of(architecture, **more)
    backbone = used_backbone(BackboneSettings(name="sam_nano"))
    torch.manual_seed(seed)
    making = ProposalMaking(segmenter=SegmenterSettings(family="tree"), proposals=ProposalSettings(max_proposals=30))
    wants_proposals = isinstance(settings, WsodSettings) or getattr(settings, "given_proposals", 0) > 0
    header = CheckpointHeader(
        architecture=architecture,  # type: ignore[arg-type]
        classes=CLASSES,
        category_ids=NUMBERS,
        backbone=backbone,
        detector=used_settings(settings),
        proposals=making if wants_proposals else None,
        licence="free",
        fingerprint="ab" * 32,
    )
    return Checkpoint(header, settings, _state(architecture, settings, backbone))


def _state(architecture: str, settings: Any, backbone: BackboneSettings) -> dict[str, torch.Tensor]:
    if isinstance(settings, WsodSettings):
        return _weak_state(settings, backbone)
    builders = {"faster_rcnn": build_faster_rcnn, "dino": build_dino, "mask_rcnn": build_mask_rcnn}
    build = builders.get(architecture, build_mask2former)
    return build(backbone, settings, len(CLASSES)).state_dict()


def _weak_state(settings: WsodSettings, backbone: BackboneSettings) -> dict[str, torch.Tensor]:
    nothing = Dataset("none", CLASSES, NUMBERS, ())
    context = RunContext(None, 0, torch.device("cpu"), nothing, None, RunLog(None), backbone)  # type: ignore[arg-type]
    if settings.mode == "end_to_end":
        return EndToEndDetector(context, settings).model.state_dict()
    detector = FrozenDetector(context, settings)
    detector.model.directions.normal_()
    head = {f"head.{name}": value for name, value in detector.model.state_dict().items()}
    extent = {"extent.of_all": torch.randn(len(CLASSES), len(detector.model.directions) + 1)}
    return head | extent | {f"backbone.{name}": value for name, value in detector.photos.network.state_dict().items()}
