"""Define the settings of a run: data, models, stages and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from weaksam.config import Settings
from weaksam.data.dataset import DataSettings
from weaksam.evaluation.settings import EvaluationSettings
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.text.settings import ClassesSettings
from weaksam.sam.build import SegmenterSettings
from weaksam.sam.embedding_cache import EmbeddingCacheSettings
from weaksam.stages.clues import ClueSettings
from weaksam.stages.proposals import ProposalSettings
from weaksam.stages.pseudo_gt.settings import AdaptiveSettings, PseudoGtSettings
from weaksam.stages.retrain.settings import AnyRetrainSettings, RetrainSettings
from weaksam.stages.wsis.settings import AnyWsisSettings, WsisSettings
from weaksam.stages.wsod import WsodSettings


class RunSettings(Settings):
    """One run: its data, its folder, its seed, and the settings of every stage; a YAML holds only what differs."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset(
        {"out", "device", "threads", "workers", "evaluation", "ceiling", "embedding_cache"}
    )

    _as_before: ClassVar[Mapping[str, Any]] = {"classes": ClassesSettings()}

    data: DataSettings = Field(DataSettings(), description="training photos and tags, test photos, truth to measure by")
    classes: ClassesSettings = Field(ClassesSettings(), description="what is known of the classes beside their names")
    out: Path = Field(Path("work_dirs/run"), description="folder for everything the run makes")
    seed: int = Field(0, ge=0, description="the one seed; every other is derived from it")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; None leaves its own choice")
    workers: int | None = Field(
        None, ge=1, description="processes that share the proposals; None: a core each, up to 4, for the region tree"
    )
    backbone: BackboneSettings = Field(BackboneSettings(), description="the network every detector starts from")
    segmenter: SegmenterSettings = Field(SegmenterSettings(), description="the frozen promptable segmenter")
    mask_segmenter: SegmenterSettings | None = Field(None, description="another one for the masks; None: the same")
    embedding_cache: EmbeddingCacheSettings = Field(
        EmbeddingCacheSettings(), description="photo embeddings kept on disk for the next stage or run"
    )
    clues: ClueSettings = Field(ClueSettings(), description="the tag classifier and its peaks")
    proposals: ProposalSettings = Field(ProposalSettings(), description="prompts and suppression")
    wsod: WsodSettings = Field(WsodSettings(), description="the weakly supervised detector")
    pseudo_gt: PseudoGtSettings = Field(
        AdaptiveSettings(),
        discriminator="rule",
        description="which boxes are believed: a rule (adaptive, adaptive_paper, adaptive_released, top1, topk or "
        "given) and its settings",
    )
    retrain: AnyRetrainSettings = Field(
        RetrainSettings(),
        discriminator="detector",
        description="the detector that learns the pseudo boxes, faster_rcnn or dino, with its settings",
    )
    wsis: AnyWsisSettings = Field(
        WsisSettings(),
        discriminator="network",
        description="pseudo masks and the network that learns them, mask_rcnn or mask2former, with its settings",
    )
    evaluation: EvaluationSettings = Field(EvaluationSettings(), description="how the results are measured")
    ceiling: bool = Field(False, description="train the same detectors on the true boxes and masks as well")


def without_tags(settings: RunSettings) -> RunSettings:
    """The same run on photos alone, see ``DataSettings.without_tags``."""
    return settings.model_copy(update={"data": settings.data.model_copy(update={"without_tags": True})})
