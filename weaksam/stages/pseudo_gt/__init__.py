"""The pseudo ground truth stage: from a weak detector's boxes on the training photos to boxes to train on."""

from weaksam.stages.pseudo_gt.adaptive import adaptive_pseudo_gt
from weaksam.stages.pseudo_gt.given import read_given
from weaksam.stages.pseudo_gt.paper import paper_pseudo_gt
from weaksam.stages.pseudo_gt.released import released_pseudo_gt
from weaksam.stages.pseudo_gt.review import NO_REVIEW, Review, read_review
from weaksam.stages.pseudo_gt.settings import AdaptiveSettings, GivenPseudoGtSettings, PseudoGtSettings, Top1Settings
from weaksam.stages.pseudo_gt.stage import choose_all, choose_pseudo_gt, run, run_given, with_labels
from weaksam.stages.pseudo_gt.topk import topk_pseudo_gt

__all__ = [
    "NO_REVIEW",
    "AdaptiveSettings",
    "GivenPseudoGtSettings",
    "PseudoGtSettings",
    "Review",
    "Top1Settings",
    "adaptive_pseudo_gt",
    "choose_all",
    "choose_pseudo_gt",
    "paper_pseudo_gt",
    "read_given",
    "read_review",
    "released_pseudo_gt",
    "run",
    "run_given",
    "topk_pseudo_gt",
    "with_labels",
]
