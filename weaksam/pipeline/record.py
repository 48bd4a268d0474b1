"""Describe a run for ``run.json``, so that its figures can be made again: settings, versions, hashes, seed, device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from weaksam.engine.device import describe_device
from weaksam.engine.versions import versions
from weaksam.pipeline.settings import RunSettings


def run_record(settings: RunSettings, device: torch.device, hashes: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``run.json``; ``hashes`` names the inputs (photos and tags, weights, segmenter) and the stages."""
    return {
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
        "hashes": dict(hashes),
        "seeds": {"run": settings.seed, "rule": "every other seed is derived from it and a label"},
        "device": describe_device(device),
    }
