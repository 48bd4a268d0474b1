"""What every stage of one run shares: where it writes, its seed, device, data and frozen models' settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from weaksam.engine.log import RunLog

if TYPE_CHECKING:
    from weaksam.data.loading import Dataset
    from weaksam.models.backbones.build import BackboneSettings
    from weaksam.sam.build import SegmenterSettings


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
