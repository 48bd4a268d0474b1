"""The wsis stage: from pseudo boxes to pseudo masks, and from these to a trained Mask R-CNN."""

from weaksam.stages.wsis.pseudo_masks import make_pseudo_masks
from weaksam.stages.wsis.settings import WsisSettings
from weaksam.stages.wsis.stage import WsisResult, run, run_early

__all__ = ["WsisResult", "WsisSettings", "make_pseudo_masks", "run", "run_early"]
