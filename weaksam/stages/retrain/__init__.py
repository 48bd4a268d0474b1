"""The retrain stage: train Faster R-CNN or DINO on the pseudo ground truth, and choose whose detections to hand on."""

from weaksam.stages.retrain.candidates import CandidateName, Candidates
from weaksam.stages.retrain.choice import Choice
from weaksam.stages.retrain.rounds import RetrainResult, Teaching, run_and_choose
from weaksam.stages.retrain.settings import AnyRetrainSettings, DinoRetrainSettings, RetrainSettings
from weaksam.stages.retrain.stage import run, run_early

__all__ = [
    "AnyRetrainSettings",
    "CandidateName",
    "Candidates",
    "Choice",
    "DinoRetrainSettings",
    "RetrainResult",
    "RetrainSettings",
    "Teaching",
    "run",
    "run_and_choose",
    "run_early",
]
