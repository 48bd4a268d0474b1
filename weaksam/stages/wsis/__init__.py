"""The wsis stage: from pseudo boxes to pseudo masks, and from these to a trained Mask R-CNN or Mask2Former."""

from weaksam.engine.pseudo_masks import StoredPeaks, make_pseudo_masks
from weaksam.stages.wsis.settings import AnyWsisSettings, Mask2FormerWsisSettings, WsisSettings
from weaksam.stages.wsis.stage import WsisResult, run, run_early

__all__ = [
    "AnyWsisSettings",
    "Mask2FormerWsisSettings",
    "StoredPeaks",
    "WsisResult",
    "WsisSettings",
    "make_pseudo_masks",
    "run",
    "run_early",
]
