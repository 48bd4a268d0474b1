"""The stages in order, and how they are run."""

from weaksam.pipeline.running import measure_clues, rewrite_report, run
from weaksam.pipeline.stages import CEILINGS, STAGES, Stage

__all__ = ["CEILINGS", "STAGES", "Stage", "measure_clues", "rewrite_report", "run"]
