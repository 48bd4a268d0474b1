"""Tell before a run how long it takes, from a few of its photos that go through all stages."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from weaksam.config import UserError
from weaksam.data.tag_signal import tag_notes
from weaksam.engine.helper_processes import processors
from weaksam.pipeline.plan import STAGES
from weaksam.pipeline.plan_advice import better_served, segmenter_note, suitable_segmenter
from weaksam.pipeline.settings import RunSettings, without_tags
from weaksam.pipeline.state import Run, open_run
from weaksam.stages import STAGE_NAMES
from weaksam.structures.dataset import Dataset, Sample
from weaksam.terminal import say

TRIED_PHOTOS = 3
"""Photos that are tried, and as many more as show every class."""
TRIED_STEPS = 2
"""Steps that are tried of a training whose length is given in steps."""


@dataclass(frozen=True)
class StagePlan:
    """What a stage is expected to take: ``seconds`` on this machine, and ``mib`` of disk."""

    stage: str
    seconds: float
    mib: float


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take, ``stages`` in order, and what should be known before it starts."""

    num_train: int
    num_test: int
    num_tried: int
    segmenter: str
    device: str
    stages: Sequence[StagePlan] = ()
    peak_memory_mib: int = 0
    free_mib: int = 0
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def seconds(self) -> float:
        """Seconds of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def mib(self) -> float:
        """Disk of all stages, MiB."""
        return sum(stage.mib for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON-like values: its fields, with the seconds and MiB of all stages."""
        return {**asdict(self), "seconds": self.seconds, "mib": self.mib}

    def text(self) -> str:
        """The plan as lines for a terminal."""
        lines = [
            f"{self.num_train} training and {self.num_test} test photos; segmenter {self.segmenter}; on {self.device}",
            f"estimated from {self.num_tried} photos (seconds are of this machine as busy as it is now):",
        ]
        lines += [f"  {stage.stage:<10} {_duration(stage.seconds):>10}  {stage.mib:8.0f} MiB" for stage in self.stages]
        in_all = f"{_duration(self.seconds):>10}  {self.mib:8.0f} MiB"
        lines.append(f"  {'in all':<10} {in_all}, {self.free_mib} MiB are free")
        lines.append(
            f"memory: {self.peak_memory_mib} MiB for the photos tried; the features of more photos are kept too"
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def plan_run(settings: RunSettings, until: str | None = None) -> Plan:
    """Try the stages up to ``until`` (all by default) on a few photos in a folder that is deleted, and scale up.

    Trained are as many epochs as the run has, on those photos; of trainings whose length is given in steps the first
    two. What is loaded once counts as if each photo needed it, so that short runs are quicker than planned.

    Raises:
        UserError: bad settings or data, as a run raises it.
    """
    if until is not None and until not in STAGE_NAMES:
        raise UserError(f"wanted a stage ({', '.join(STAGE_NAMES)}), found {until!r}: name one of them")
    photos_alone = settings.data.without_tags
    if photos_alone:
        settings = without_tags(settings)
    last = "proposals" if photos_alone else until or STAGE_NAMES[-1]
    names = ("proposals",) if photos_alone else STAGE_NAMES[: STAGE_NAMES.index(last) + 1]
    with tempfile.TemporaryDirectory(prefix="weaksam-plan-") as folder:
        tried = open_run(_shortened(settings, Path(folder)))
        num_train, num_test = (len(tried.context.train), len(tried.context.test or ()))
        notes = [*tag_notes(tried.context.train), *better_served(tried.context.train)]
        chosen = tried_photos(tried.context.train)
        context = replace(tried.context, train=replace(tried.context.train, samples=tuple(chosen)), test=None)
        tried = replace(tried, context=context, results={})
        say(f"plan: trying {len(chosen)} of {num_train} photos", error=True)
        stages = [_tried(tried, name, settings, num_train, num_test, len(chosen)) for name in names]
        peak = max(int(tried.note(name).get("peak_memory_mib", 0)) for name in names)
        device, free = _device_name(context.device), _free_mib(settings.out)
        plan = Plan(num_train, num_test, len(chosen), tried.segmenter.name, device, stages, peak, free)
    return replace(plan, notes=(*notes, *_advice(plan, settings)))


def tried_photos(dataset: Dataset, num: int = TRIED_PHOTOS) -> list[Sample]:
    """At least ``num`` photos, where there are so many: such that every class of ``dataset`` is on one of them.

    Each is the first photo that shows most classes that none before it shows; those that lack are spread evenly.
    """
    chosen: list[Sample] = []
    missing = {label for sample in dataset for label in sample.tags}
    while missing:
        best = max(dataset, key=lambda sample: len(missing & set(sample.tags)))
        chosen.append(best)
        missing -= set(best.tags)
    others = [sample for sample in dataset if sample not in chosen]
    wanted = min(max(0, num - len(chosen)), len(others))
    chosen += [others[index * len(others) // wanted] for index in range(wanted)]
    return sorted(chosen, key=lambda sample: sample.image_id)


def _shortened(settings: RunSettings, out: Path) -> RunSettings:
    """The same run in ``out`` by one process, trainings that are counted in steps cut to `TRIED_STEPS`."""
    update: dict[str, Any] = {"out": out, "workers": 1, "ceiling": False}
    for name in ("retrain", "wsis"):
        section = getattr(settings, name)
        if section.num_steps is not None:
            update[name] = section.model_copy(update={"num_steps": min(TRIED_STEPS, section.num_steps)})
    return settings.model_copy(update=update)


def _tried(run: Run, name: str, settings: RunSettings, num_train: int, num_test: int, num_tried: int) -> StagePlan:
    """Run a stage on the photos of ``run``, and scale what it took to the photos of the whole run."""
    stage = next(stage for stage in STAGES if stage.name == name)
    say(f"plan: {name}", error=True)
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # what is said of three photos misleads
        run.timed(name, lambda: stage.run(run))
    seconds = time.perf_counter() - start
    photos = (num_train + (num_test if name == "proposals" else 0)) / num_tried
    steps = getattr(getattr(settings, name), "num_steps", None)
    trained = _trained_seconds(run.context.out / "log.jsonl", name)
    share = photos if steps is None else steps / min(TRIED_STEPS, steps)
    planned = (seconds - trained) * photos + trained * share
    return StagePlan(name, planned, _disk_mib(run.context.out / name, photos))


def _trained_seconds(log: Path, label: str) -> float:
    """Seconds of the epochs of a training, by the log; 0 of none."""
    events = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return sum(event["seconds"] for event in events if event["event"] == "epoch" and event.get("label") == label)


def _disk_mib(folder: Path, photos: float) -> float:
    """MiB of a stage's folder for the whole run: weights as they are, all else in proportion to the photos."""
    fixed = scaled = 0
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix == ".safetensors":
            fixed += path.stat().st_size
        elif path.is_file():
            scaled += path.stat().st_size
    return (fixed + scaled * photos) / 2**20


def _advice(plan: Plan, settings: RunSettings) -> list[str]:
    """What to know of the segmenter on this machine, and of the disk."""
    of_proposals = next((stage for stage in plan.stages if stage.stage == "proposals"), None)
    num_photos = plan.num_train + plan.num_test
    a_photo = 0.0 if of_proposals is None else of_proposals.seconds / max(1, num_photos)
    gpu = _gpu_gib() if plan.device != "cpu" else None
    suitable = suitable_segmenter(gpu, processors(), num_photos)
    note = segmenter_note(settings.segmenter.weights is not None, a_photo, gpu, suitable)
    notes = [] if note is None else [note]
    if plan.mib > plan.free_mib:
        notes.append(f"the results need about {plan.mib:.0f} MiB and {plan.free_mib} are free: choose another out=")
    return notes


def _gpu_gib() -> float:
    """Memory of the GPU in use, GiB."""
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _free_mib(out: Path) -> int:
    """Free MiB of the disk that ``out`` will lie on."""
    there = next(parent for parent in (out.resolve(), *out.resolve().parents) if parent.exists())
    return shutil.disk_usage(there).free // 2**20


def _duration(seconds: float) -> str:
    """Seconds as ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
