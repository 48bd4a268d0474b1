"""The clue stage: from tags to class maps and peaks, by a CNN, a vision transformer, your heat maps or names."""

from weaksam.stages.clues.backbone_training import adapted_backbone
from weaksam.stages.clues.peaks import photo_peaks
from weaksam.stages.clues.settings import ClueSettings
from weaksam.stages.clues.source import ClueSource, classes_to_map
from weaksam.stages.clues.stage import build_source, run
from weaksam.stages.clues.store_rows import class_maps, clue_peaks, clue_points, kind_maps
from weaksam.stages.clues.text import kept_agreement, proposed_hits

__all__ = [
    "ClueSettings",
    "ClueSource",
    "adapted_backbone",
    "build_source",
    "class_maps",
    "classes_to_map",
    "clue_peaks",
    "clue_points",
    "kept_agreement",
    "kind_maps",
    "photo_peaks",
    "proposed_hits",
    "run",
]
