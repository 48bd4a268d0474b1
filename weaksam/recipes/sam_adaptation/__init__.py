"""WeSAM: adapt a segmenter to a shifted domain with weak labels (Zhang et al., CVPR 2024)."""

from weaksam.recipes.sam_adaptation.recipe import LORA, adapt, evaluate, export, text
from weaksam.recipes.sam_adaptation.settings import AdaptSettings

__all__ = ["LORA", "AdaptSettings", "adapt", "evaluate", "export", "text"]
