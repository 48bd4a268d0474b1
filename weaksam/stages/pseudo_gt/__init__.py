"""The pseudo ground truth stage: from a weak detector's boxes on the training photos to boxes to train on."""

from weaksam.stages.pseudo_gt.adaptive import adaptive_pseudo_gt
from weaksam.stages.pseudo_gt.settings import PseudoGtSettings
from weaksam.stages.pseudo_gt.stage import run
from weaksam.stages.pseudo_gt.top1 import top1_pseudo_gt

__all__ = ["PseudoGtSettings", "adaptive_pseudo_gt", "run", "top1_pseudo_gt"]
