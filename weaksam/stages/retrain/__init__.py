"""The retrain stage: train Faster R-CNN on the pseudo ground truth and detect with it."""

from weaksam.stages.retrain.settings import RetrainSettings
from weaksam.stages.retrain.stage import run, run_early

__all__ = ["RetrainSettings", "run", "run_early"]
