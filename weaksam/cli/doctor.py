"""Check the installation: print versions, what works here, and the command that mends what does not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

REINSTALL = "pip install --force-reinstall torch torchvision"


class Finding(NamedTuple):
    """The result of one check: its name, whether it works, details, and the command that mends it."""

    name: str
    works: bool
    detail: str
    remedy: str = ""


def diagnose(say: Callable[[str], None]) -> bool:
    """Print one line per finding through ``say``; returns whether everything that is needed works."""
    healthy = True
    for finding in findings():
        healthy &= finding.works
        mark = "ok  " if finding.works else "FAIL"
        remedy = f"  ->  {finding.remedy}" if finding.remedy else ""
        say(f"{mark}  {finding.name}: {finding.detail}{remedy}")
    return healthy


def findings() -> Iterator[Finding]:
    """The results of all checks, in order; a check that fails does not hide the others."""
    checks: tuple[tuple[str, Callable[[], Finding], str], ...] = (
        ("python", _python, "use Python 3.10 or newer"),
        ("torch and torchvision", _torchvision, REINSTALL),
        ("packages", _packages, "pip install -e ."),
        ("device", _device, ""),
        ("memory", _memory, ""),
        ("masks (pycocotools)", _masks, "pip install --force-reinstall pycocotools"),
        ("segmenter", _segmenter, "pip install --force-reinstall higra"),
        ("bundled sam_nano", _nano, "reinstall weaksam: its weights file is missing"),
        ("ImageNet weights", _imagenet, ""),
        ("mmdet and detectron2", _frames, ""),
    )
    for name, check, remedy in checks:
        try:
            yield check()
        except Exception as error:  # whatever breaks an import is the finding
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            yield Finding(name, False, f"{type(error).__name__}: {reason}", remedy)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info >= (3, 10), version, "" if sys.version_info >= (3, 10) else "use 3.10+")


def _torchvision() -> Finding:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist()
    detail = f"torch {torch.__version__}, torchvision {torchvision.__version__}, compiled operators answer"
    return Finding("torch and torchvision", kept == [0], detail, "" if kept == [0] else REINSTALL)


def _packages() -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    from weaksam.engine.versions import PACKAGES, versions

    missing = []
    for name in PACKAGES:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", False, f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Finding("packages", True, ", ".join(f"{name} {number}" for name, number in versions().items()))


def _device() -> Finding:
    import torch

    from weaksam.engine.device import describe_device, pick_device

    about = describe_device(pick_device("auto"))
    text = ", ".join(f"{key} {value}" for key, value in about.items())
    note = "" if torch.cuda.is_available() else " (no GPU is used: everything runs on the CPU)"
    return Finding("device", True, text + note)


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Finding("memory", True, "unknown here")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    enough = total >= 3.5
    remedy = "" if enough else "use a machine with 4 GiB, or lower wsod, retrain and wsis sizes"
    return Finding("memory", enough, f"{total:.1f} GiB", remedy)


def _masks() -> Finding:
    import torch

    from weaksam.structures.masks import mask_from_rle, rle_from_mask

    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1:3, 2:6] = True
    same = bool((mask_from_rle(rle_from_mask(mask)) == mask).all())
    return Finding("masks (pycocotools)", same, "run-length codes there and back")


def _segmenter() -> Finding:
    import numpy as np
    import torch

    from weaksam.sam.build import SegmenterSettings, build_segmenter
    from weaksam.sam.prompts import Prompts

    segmenter = build_segmenter(SegmenterSettings(), torch.device("cpu"))
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16:48, 16:48] = 200
    answer = segmenter.predict(segmenter.encode(picture), Prompts.single_points(torch.tensor([[32.0, 32.0]])))
    return Finding("segmenter", answer.masks.shape[:2] == (1, 3), f"offline default '{segmenter.name}' answers a point")


def _nano() -> Finding:
    folder = Path(__file__).parents[1] / "sam" / "weights"
    files = sorted(folder.glob("*.safetensors"))
    detail = ", ".join(f"{file.name} ({file.stat().st_size / 2**20:.1f} MiB)" for file in files)
    return Finding("bundled sam_nano", bool(files), detail or f"no weights in {folder}")


def _imagenet() -> Finding:
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = sorted(path.name for path in folder.glob("*.pth")) if folder.is_dir() else []
    if files:
        return Finding("ImageNet weights", True, f"cached: {', '.join(files)}")
    return Finding(
        "ImageNet weights", True, "none cached: downloaded when first needed; offline, set backbone.weights=FILE"
    )


def _frames() -> Finding:
    from importlib.util import find_spec

    there = [name for name in ("mmdet", "detectron2") if find_spec(name) is not None]
    detail = f"{' and '.join(there) or 'neither'} can be retrain.engine here"
    remedy = "" if there else "optional: an environment of their own, see docs/formats.md, as retrain.engine_python"
    return Finding("mmdet and detectron2", True, detail, remedy)
