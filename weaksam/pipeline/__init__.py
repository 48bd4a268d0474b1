"""Run the stages of the method in order."""

from weaksam.pipeline.plan import CEILINGS, STAGES, Stage
from weaksam.pipeline.running import measure_clues, rewrite_report, run
from weaksam.pipeline.verifying import verify_run

__all__ = ["CEILINGS", "STAGES", "Stage", "measure_clues", "rewrite_report", "run", "verify_run"]
