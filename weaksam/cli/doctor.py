"""Check the installation: print versions, what works here, and the command that mends what does not."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

REINSTALL = "pip install --force-reinstall torch torchvision"
USED_EXTRAS = ("corruptions", "edgetam", "onnx", "supervision")
"""The extras that a command or function of the package uses."""


class Finding(NamedTuple):
    """The result of one check: its name, whether it works, details, and the command that mends it.

    A check that works may have a remedy too: that of what is optional.
    """

    name: str
    works: bool
    detail: str
    remedy: str = ""

    @property
    def text(self) -> str:
        """The finding as a line for a terminal."""
        remedy = f"  ->  {self.remedy}" if self.remedy else ""
        return f"{'ok  ' if self.works else 'FAIL'}  {self.name}: {self.detail}{remedy}"


def verdict(results: Sequence[Finding]) -> str:
    """The last line: that all works, or the one command that mends what does not."""
    remedies = dict.fromkeys(finding.remedy for finding in results if not finding.works and finding.remedy)
    number = sum(not finding.works for finding in results)
    if number == 0:
        return "all that is needed works"
    return f"{number} of {len(results)} checks failed; to mend it: {' && '.join(remedies) or 'see above'}"


def findings() -> Iterator[Finding]:
    """The results of all checks, in order; a check that fails does not hide the others."""
    checks: tuple[tuple[str, Callable[[], Finding], str], ...] = (
        ("python", _python, "use Python 3.10 or newer"),
        ("torch and torchvision", _torchvision, REINSTALL),
        ("packages", _packages, "pip install -e ."),
        ("device", _device, ""),
        ("memory", _memory, ""),
        ("disk", _disk, ""),
        ("masks (pycocotools)", _masks, "pip install --force-reinstall pycocotools"),
        ("segmenter", _segmenter, "pip install --force-reinstall higra"),
        ("bundled sam_nano", _nano, "reinstall weaksam: its weights file is missing"),
        ("SAM weights", _sam_weights, ""),
        ("ImageNet weights", _imagenet, ""),
        ("optional packages", _extras, ""),
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
    from weaksam.engine.versions import versions

    wanted = requirements(metadata.requires("weaksam") or ())
    if missing := unmet(wanted[""]):
        command = f"pip install {' '.join(map(shlex.quote, missing))}"
        return Finding("packages", False, f"missing or too old: {', '.join(missing)}", command)
    return Finding("packages", True, ", ".join(f"{name} {number}" for name, number in versions().items()))


def requirements(lines: Iterable[str]) -> dict[str, list[str]]:
    """The requirements of a package's metadata by the extra that wants them; ``""``: those that are always wanted."""
    by_extra: dict[str, list[str]] = {"": []}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", marker)
        by_extra.setdefault(extra[1] if extra else "", []).append(requirement.strip())
    return by_extra


def unmet(wanted: Iterable[str]) -> list[str]:
    """Those of the requirements, such as ``torch>=2.11``, that are not installed or only in an older version."""
    from packaging.requirements import Requirement

    missing = []
    for text in wanted:
        requirement = Requirement(text)
        try:
            works = requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
        except metadata.PackageNotFoundError:
            works = False
        if not works:
            missing.append(text)
    return missing


def _extras() -> Finding:
    wanted = requirements(metadata.requires("weaksam") or ())
    missing = {extra: unmet(wanted.get(extra, ())) for extra in USED_EXTRAS}
    there = [extra for extra, lacking in missing.items() if not lacking]
    packages = sorted({package for lacking in missing.values() for package in lacking})
    remedy = f"optional: pip install {' '.join(map(shlex.quote, packages))}" if packages else ""
    return Finding("optional packages", True, f"for {', '.join(there) or 'none'} they are installed", remedy)


def _device() -> Finding:
    import torch

    from weaksam.engine.device import describe_device, pick_device

    about = describe_device(pick_device("auto"))
    text = ", ".join(f"{key} {value}" for key, value in about.items())
    if torch.cuda.is_available():
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("device", True, f"{text}, gpu_memory {gib:.0f} GiB")
    if Path("/proc/driver/nvidia/version").exists():
        built = "torch is built for CPUs alone" if torch.version.cuda is None else "torch cannot use it"
        remedy = REINSTALL if torch.version.cuda is None else "update the driver to one for the CUDA that torch names"
        return Finding("device", False, f"{text}; an NVIDIA driver is there, but {built}", remedy)
    return Finding("device", True, f"{text} (no GPU is used: everything runs on the CPU)")


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Finding("memory", True, "unknown here")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    enough = total >= 3.5
    remedy = "" if enough else "use a machine with 4 GiB, or lower wsod, retrain and wsis sizes"
    return Finding("memory", enough, f"{total:.1f} GiB", remedy)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    remedy = "" if free >= 1 else "free some, or give out= on another disk"
    return Finding("disk", free >= 1, f"{free:.1f} GiB free where you are", remedy)


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


def _sam_weights() -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    models = sorted(path.name for path in folder.glob("models--*")) if folder.is_dir() else []
    ids = [name.removeprefix("models--").replace("--", "/") for name in models]
    known = [name for name in ids if re.search("sam|edgetam", name, re.IGNORECASE)]
    if known:
        return Finding("SAM weights", True, f"cached: {', '.join(known)}")
    detail = "none cached: without them the region tree answers; for real work give a file, folder or hub id"
    return Finding("SAM weights", True, detail, "optional: segmenter.weights=facebook/sam-vit-base, docs/segmenters.md")


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
