"""The retrain stage: train Faster R-CNN or DINO on the pseudo ground truth and detect with it."""

from weaksam.stages.retrain.settings import AnyRetrainSettings, DinoRetrainSettings, RetrainSettings
from weaksam.stages.retrain.stage import run, run_early

__all__ = ["AnyRetrainSettings", "DinoRetrainSettings", "RetrainSettings", "run", "run_early"]
