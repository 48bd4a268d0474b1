"""Run the stages of the method in order."""

from weaksam.pipeline.labels import export as export_labels
from weaksam.pipeline.labels import import_labels
from weaksam.pipeline.plan import CEILINGS, STAGES, Stage
from weaksam.pipeline.planning import plan_run
from weaksam.pipeline.pseudo_gt import export_pseudo_gt, measure_pseudo_gt
from weaksam.pipeline.ray import ActorSettings
from weaksam.pipeline.review import apply_review
from weaksam.pipeline.roi_drop import plot_roi_drop
from weaksam.pipeline.running import measure_clues, rewrite_report, run
from weaksam.pipeline.showing import show_photo
from weaksam.pipeline.suggesting import suggest
from weaksam.pipeline.verifying import verify_run
from weaksam.pipeline.weight_conversion import convert_weights

__all__ = [
    "CEILINGS",
    "STAGES",
    "ActorSettings",
    "Stage",
    "apply_review",
    "convert_weights",
    "export_labels",
    "export_pseudo_gt",
    "import_labels",
    "measure_clues",
    "measure_pseudo_gt",
    "plan_run",
    "plot_roi_drop",
    "rewrite_report",
    "run",
    "show_photo",
    "suggest",
    "verify_run",
]
