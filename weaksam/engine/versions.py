"""List the installed versions of the packages that may change a result."""

from __future__ import annotations

import platform
from importlib import metadata

import weaksam

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "pillow", "pycocotools", "faster-coco-eval", "pyarrow", "pydantic",
    "safetensors", "higra", "segment-anything",
)  # fmt: skip
"""Packages whose version may change a result."""


def versions() -> dict[str, str]:
    """Installed versions by package name; packages that are not installed are left out."""
    by_name = {"weaksam": weaksam.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            by_name[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return by_name
