"""WS-SAM: segment concealed objects, learned from scribbles, points or tags (He et al., NeurIPS 2023)."""

from weaksam.recipes.concealed.recipe import ConcealedResult, run
from weaksam.recipes.concealed.settings import ConcealedSettings

__all__ = ["ConcealedResult", "ConcealedSettings", "run"]
