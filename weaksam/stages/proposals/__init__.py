"""The proposal stage: prompt the frozen segmenter with a grid and with clues, or take finished proposals."""

from weaksam.stages.proposals.given import run_given
from weaksam.stages.proposals.prompting import propose, propose_encoded
from weaksam.stages.proposals.settings import ORIGINAL_RULES, ProposalSettings, grid_of
from weaksam.stages.proposals.stage import run
from weaksam.stages.proposals.suppression import choose_candidates

__all__ = [
    "ORIGINAL_RULES",
    "ProposalSettings",
    "choose_candidates",
    "grid_of",
    "propose",
    "propose_encoded",
    "run",
    "run_given",
]
