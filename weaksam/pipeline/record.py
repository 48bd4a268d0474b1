"""What ``run.json`` records, so that a figure can be made again: settings, versions, hashes, seed, device."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import weaksam
from weaksam.config import Settings
from weaksam.engine.device import describe_device
from weaksam.store.files import write_json_atomic

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "pillow", "pycocotools", "faster-coco-eval", "pyarrow", "pydantic",
    "safetensors", "higra", "segment-anything",
)  # fmt: skip
"""Packages whose version may change a result."""


def versions() -> dict[str, str]:
    """Installed versions by package name; packages that are not installed are left out."""
    found = {"weaksam": weaksam.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def run_record(settings: Settings, device: torch.device, hashes: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``run.json``; ``hashes`` names the inputs (photos and tags, weights, segmenter) and the stages."""
    return {
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
        "hashes": dict(hashes),
        "seeds": {"run": getattr(settings, "seed", None), "rule": "every other seed is derived from it and a label"},
        "device": describe_device(device),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json``, whole or not at all."""
    write_json_atomic(path, record, indent=1)
