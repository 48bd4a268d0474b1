"""GoodSAM-style: a compact segmenter for panoramas from a frozen segmenter and an assistant (arXiv 2403.16370)."""

from weaksam.recipes.panorama.predicting import load_student, predict
from weaksam.recipes.panorama.recipe import run, text
from weaksam.recipes.panorama.settings import PanoramaSettings

__all__ = ["PanoramaSettings", "load_student", "predict", "run", "text"]
