"""What every stage of one run shares: where it writes, its seed, device, data and frozen models' settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from weaksam.engine.log import RunLog
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.sam.build import SegmenterSettings
from weaksam.structures.dataset import Dataset


@dataclass(frozen=True)
class RunContext:
    """One run: output folder, seed, device, the train set, the test set (or none), log and shared settings."""

    out: Path
    seed: int
    device: torch.device
    train: Dataset
    test: Dataset | None
    log: RunLog
    backbone: BackboneSettings
    segmenter_settings: SegmenterSettings
