"""Make adaptations of toy size."""

from pathlib import Path

from tests.helpers import CPU
from weaksam.config import load_settings
from weaksam.recipes.sam_adaptation import AdaptSettings
from weaksam.recipes.sam_adaptation.adaptable import adaptable
from weaksam.recipes.sam_adaptation.recipe import training_photos
from weaksam.recipes.sam_adaptation.training import Adaptation
from weaksam.sam.build import build_segmenter


def settings(scenes: Path, out: Path, *more: str) -> AdaptSettings:
    """Settings of three steps on rendered ``scenes``, with ``more`` of them."""
    given = [
        f"data.{split}.{key}={path}"
        for split in ("train", "test")
        for key, path in (("images", scenes / split), ("truth", scenes / f"instances_{split}.json"))
    ]
    return load_settings(AdaptSettings, None, [*given, f"out={out}", "steps=3", "warmup_steps=2", "threads=1", *more])


def adaptation(wanted: AdaptSettings) -> Adaptation:
    """The networks of ``wanted`` before the first step."""
    network = adaptable(build_segmenter(wanted.segmenter, CPU), legacy=wanted.legacy)
    return Adaptation(network, training_photos(wanted)[0], wanted)
