"""Hold the state of a run: its settings, its data without the truth, the truth beside it, and its notes on disk."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from weaksam import __version__
from weaksam.config import UserError, fingerprint_of
from weaksam.data.dataset import KnownPhotos, load_splits
from weaksam.data.detection_stores import instances_key
from weaksam.data.findings import Findings
from weaksam.data.photo_labels import described, labelled
from weaksam.data.proposals.given import GivenProposals, given_store
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.initial_weights import given_inputs, with_pinned_backbone
from weaksam.engine.device import WITHOUT, pick_device
from weaksam.engine.distributed import own_device, this_process
from weaksam.engine.helper_processes import MOST_WORKERS, processors
from weaksam.engine.log import RunLog
from weaksam.engine.seeds import seed_everything
from weaksam.evaluation.truth import Truth
from weaksam.models.backbones.weights import backbone_fingerprint, colours_note, pinned_backbone
from weaksam.pipeline.settings import RunSettings
from weaksam.prediction.checkpoint import NAME as CHECKPOINT
from weaksam.sam.build import build_segmenter
from weaksam.sam.embedding_cache import with_cache
from weaksam.sam.protocol import Segmenter
from weaksam.stages import STAGE_NAMES
from weaksam.stages.pseudo_gt import NO_REVIEW, GivenPseudoGtSettings, Review, read_given, read_review
from weaksam.stages.retrain import AnyRetrainSettings
from weaksam.stages.wsis import AnyWsisSettings
from weaksam.store.files import file_sha256
from weaksam.store.listed_files import FILES
from weaksam.store.parts import PART_SIZE
from weaksam.store.records import read_record, write_record
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import labels_fingerprint
from weaksam.terminal import printable, say

PHOTOS_WORTH_HELP = 64
"""A further process takes some seconds to start."""
DONE = "done.json"
"""A stage's note of itself: its key, whether it is finished, seconds, memory, the SHA-256 of its plain files."""
CEILING = "_ceiling"
"""The names of the stages that ``ceiling=true`` adds end in this."""
ROI_DROP = "roi_drop"
"""Folder below OUT of the diagnosis of RoI drop: the early detectors and, unless another place is named, the plots."""
REVIEWS = "review"
"""Folder below OUT of the decisions that a reviewer made in the report."""
SUGGESTIONS = "suggestions.json"
"""File below OUT of the photos that `weaksam suggest` named last."""
OLDEST = (0, 2)
"""The first version (major, minor) whose output folders this one continues."""
_VERSION = re.compile(r"\d{1,9}\.\d{1,9}(\.|$)")
"""How a version begins, so that it can be told older or newer."""


@dataclass
class Run:
    """One run under way: what the stages share, the truth that only the evaluation reads, and each stage's result.

    ``context`` holds the data without its truth, and the test photos without tags: what a stage cannot see it cannot
    use. ``true_train`` is for the ceilings alone. ``given_pseudo_gt``: by image id, where the settings name a file of
    it.
    """

    settings: RunSettings
    context: RunContext
    true_train: Dataset
    truths: Mapping[str, Truth | None]
    given_pseudo_gt: Mapping[str, Instances] = field(default_factory=dict)
    given_notes: tuple[str, ...] = ()
    """How the file of given pseudo ground truth was read."""
    review: Review = NO_REVIEW
    """What a reviewer decided on the pseudo ground truth."""
    held_out_tags: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Labels of the test photos' tags by image id, which no stage sees; the report alone reads them."""
    results: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Sentences for the report: what a reader of its figures should know."""

    @functools.cached_property
    def segmenter(self) -> Segmenter:
        """The frozen segmenter, built when it is first asked for."""
        return self._cached(build_segmenter(self.settings.segmenter, self.context.device))

    @functools.cached_property
    def mask_segmenter(self) -> Segmenter:
        """The frozen segmenter that the pseudo boxes prompt for masks."""
        settings = self.settings.mask_segmenter
        return self.segmenter if settings is None else self._cached(build_segmenter(settings, self.context.device))

    @property
    def splits(self) -> dict[str, Dataset]:
        """The training photos and, where there are any, the test photos, as a stage may see them."""
        test = self.context.test
        return {"train": self.context.train} | ({} if test is None else {"test": test})

    @property
    def maps_test_photos(self) -> bool:
        """Whether the clue stage makes clues of the test photos: there are some, and they will be prompted."""
        wanted = self.settings.clues.test_photos and not self.settings.proposals.given.folders
        return wanted and self.context.test is not None

    @property
    def most_parts(self) -> int:
        """Parts of the largest split: no more processes than these can share a store."""
        return max(1, *(-(-len(dataset) // PART_SIZE) for dataset in self.splits.values()))

    @property
    def num_workers(self) -> int:
        """Processes that share the proposals: as set, or one a core where the segmenter itself uses only one.

        Never more than there are parts to share.
        """
        if self.settings.workers is not None:
            return min(self.settings.workers, self.most_parts)
        if self.settings.proposals.given.folders:
            return 1
        photos = sum(map(len, self.splits.values()))
        if self.segmenter.name != "tree" or photos < PHOTOS_WORTH_HELP:
            return 1
        return min(processors(), MOST_WORKERS)

    def _cached(self, segmenter: Segmenter) -> Segmenter:
        """``segmenter`` with the embedding cache in front, where the settings want it."""
        out, device = self.context.out, self.context.device
        return with_cache(segmenter, self.settings.embedding_cache, out, device, lambda note: say(note))

    @functools.cached_property
    def given(self) -> dict[str, GivenProposals]:
        """The stores of proposals that the run was given, by split, opened once; empty where it makes its own."""
        given = self.settings.proposals.given
        splits = self.splits.items() if given.folders else ()
        return {split: given_store(given, dataset, split) for split, dataset in splits}

    @functools.cached_property
    def retrain(self) -> AnyRetrainSettings:
        """Settings of the retrained detector; weights of a backbone of its own must stay those that are there now."""
        return with_pinned_backbone(self.settings.retrain)

    @functools.cached_property
    def wsis(self) -> AnyWsisSettings:
        """The same of the instance segmenter."""
        return with_pinned_backbone(self.settings.wsis)

    @functools.cached_property
    def _detector_inputs(self) -> dict[str, dict[str, str]]:
        """Fingerprints of the files that the settings of each detector name."""
        return {"retrain": given_inputs(self.retrain, "retrain"), "wsis": given_inputs(self.wsis, "wsis")}

    @functools.cached_property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of everything a run reads."""
        test = self.context.test
        fingerprints = {
            "train photos and tags": self.context.train.fingerprint,
            "test photos": test.fingerprint if test is not None else "none",
            "segmenter": self.segmenter.fingerprint,
        }
        for split, given in self.given.items():  # a store of other photos is refused before anything is computed
            fingerprints[f"given proposals of {split}"] = given.fingerprint
        if self.settings.data.without_tags:  # nothing else is loaded where only proposals are made
            return fingerprints
        backbone = backbone_fingerprint(self.context.backbone)
        return {**fingerprints, "backbone": backbone, "mask segmenter": self.mask_segmenter.fingerprint}

    def key(self, stage: str) -> str:
        """What decides ``stage`` and all before it, as a hash; the same key means the same results."""
        name = stage.removesuffix(CEILING)
        before = STAGE_NAMES[: STAGE_NAMES.index(name) + 1]
        truth = self._truth_key if stage.endswith(CEILING) else ""
        settings = {name: getattr(self.settings, name) for name in before}
        inputs = {**self.inputs, "test clues": str(self.maps_test_photos)}
        if "pseudo_gt" in before and self.given_pseudo_gt:
            inputs["given pseudo ground truth"] = fingerprint_of(instances_key(self.given_pseudo_gt))
        if "pseudo_gt" in before and self.review.files:
            inputs["review"] = self.review.fingerprint
        if self.context.labels and stage != "clues":
            inputs["labels"] = labels_fingerprint(self.context.labels)
        for detector in ("retrain", "wsis"):
            inputs |= self._detector_inputs[detector] if detector in before else {}
        return fingerprint_of({"stages": settings, "seed": self.settings.seed, "inputs": inputs, "truth": truth})

    @functools.cached_property
    def _truth_key(self) -> str:
        return fingerprint_of(
            [[i, true.boxes.tolist(), true.labels.tolist()] for i, true in self.true_train.truths.items()]
        )

    def note(self, stage: str) -> dict[str, Any]:
        """What earlier runs noted of ``stage`` with the same key (finished, seconds, peak_memory_mib); else empty."""
        note = read_record(self.context.out / stage / DONE)
        return note if note is not None and _is_note(note) and note["key"] == self.key(stage) else {}

    def finished(self, stage: str) -> bool:
        """Whether an earlier run finished ``stage`` with the same settings, data and seed."""
        return bool(self.note(stage).get("finished"))

    def timed(self, stage: str, make: Callable[[], Any]) -> Any:
        """The result of ``make``, with its seconds and peak memory noted, also where it is interrupted.

        Seconds add up over interrupted runs; a run that finds the stage finished leaves them as they are.
        """
        before = self.note(stage)
        spent, path = self._seconds_spent(stage, before), self.context.out / stage / DONE
        began, finished = time.monotonic(), False
        if not before.get("finished"):
            began_at = {"finished": False, "seconds": spent, "began": time.time()}
            write_record(path, {"key": self.key(stage), **began_at})
        self.context.log.write("stage begins", stage=stage)
        try:
            result = make()
            finished = True
        finally:
            seconds = spent if before.get("finished") else spent + time.monotonic() - began
            fields = {"finished": finished, "seconds": round(seconds, 3), "peak_memory_mib": self._peak(before)}
            plain = [*path.parent.glob("*.json"), *path.parent.glob(CHECKPOINT)] if finished else []
            files = {file.name: file_sha256(file) for file in sorted(plain) if file.name != DONE}
            write_record(path, {"key": self.key(stage), **fields, FILES: files})
            self.context.log.write("stage ends", stage=stage, **fields)
        return result

    def _seconds_spent(self, stage: str, before: Mapping[str, Any]) -> float:
        """Seconds that earlier runs spent on ``stage``; one that was killed counts up to the last file it wrote."""
        seconds = float(before.get("seconds", 0.0))
        if "began" in before:
            files = (self.context.out / stage).rglob("*")
            seconds += max(0.0, max((path.stat().st_mtime for path in files), default=0.0) - before["began"])
        return seconds

    @staticmethod
    def _peak(before: Mapping[str, Any]) -> int:
        """Peak memory of this process or of the one that made the stage, whichever is more, in MiB."""
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return before["peak_memory_mib"] if before.get("finished") else max(now, before.get("peak_memory_mib", 0))


def open_run(settings: RunSettings) -> Run:
    """Read the data, choose the device, seed everything and start the log. Raises `UserError` for bad input."""
    require_usable(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    launch = this_process()
    device = pick_device(own_device(settings.device, launch))
    if device.type == "cuda" and launch.together:
        torch.cuda.set_device(device)
    seed_everything(settings.seed)
    log = RunLog(settings.out / "log.jsonl" if launch.rank == 0 else None)
    log.write("run begins", weaksam=__version__)
    train, test = load_splits(settings.data, log, KnownPhotos(settings.out, keep=launch.rank == 0))
    train, labels = labelled(() if settings.data.without_tags else settings.data.train.labels, train, log)
    for note in [] if settings.data.without_tags or launch.rank > 0 else colours_notes(settings):
        say(note, error=True)
        log.write("colours", note=note)
    if device.type == "mps" and launch.rank == 0:
        say(WITHOUT, error=True)
        log.write("device", note=WITHOUT)
    context = RunContext(
        out=settings.out,
        seed=settings.seed,
        device=device,
        train=without_truth(train),
        test=without_truth(test, tags=False) if test is not None else None,
        log=log,
        backbone=settings.backbone if settings.data.without_tags else pinned_backbone(settings.backbone),
        prompts=settings.classes.prompts,
        labels=labels,
    )
    truths = {"train": Truth.of(train), "test": Truth.of(test)}
    held_out = {} if test is None else {sample.image_id: sample.tags for sample in test}
    run = Run(settings, context, train, truths, held_out_tags=held_out)
    run.notes += [f"The run believes {described(labels)}."] if labels else []
    if not settings.data.without_tags:
        run.review = read_review([review_file(settings.out, path) for path in settings.pseudo_gt.review], context.train)
        run.context = dataclasses.replace(run.context, rejected=run.review.rejected(context.train))
    if isinstance(settings.pseudo_gt, GivenPseudoGtSettings) and not settings.data.without_tags:
        findings = Findings()
        run.given_pseudo_gt = read_given(settings.pseudo_gt, context.train, findings)
        run.given_notes = tuple(map(printable, findings.notes))
        for text in run.given_notes:
            log.write("note", dataset="pseudo_gt", text=text)
    return run


def review_file(out: Path, path: Path) -> Path:
    """Where the decisions of a review lie: at ``path``, or in ``out`` where that folder was moved since."""
    beside = out / REVIEWS / path.name
    return beside if not path.exists() and beside.is_file() else path


def colours_notes(settings: RunSettings) -> list[str]:
    """A sentence for each backbone whose colours are a guess."""
    own = {"retrain.backbone": settings.retrain.backbone, "wsis.backbone": settings.wsis.backbone}
    backbones = {"backbone": settings.backbone} | {key: backbone for key, backbone in own.items() if backbone}
    notes = (colours_note(backbone, key) for key, backbone in backbones.items())
    return [note for note in notes if note is not None]


def require_usable(settings: RunSettings) -> None:
    """`UserError` where ``settings`` lack photos or name a folder that this version does not continue."""
    if settings.data.train.images is None:
        raise UserError(
            "wanted a folder of training photos, found none: give --images DIR --tags FILE, or data.train.images=DIR"
        )
    if settings.data.test is not None and settings.data.test.labels:
        raise UserError(
            "wanted labels of training photos alone, found data.test.labels: set data.train.labels (the test photos "
            "are measured by data.test.truth)"
        )
    refuse_older(settings.out)


def refuse_older(out: Path) -> None:
    """`UserError` where the output folder ``out`` was made by a version whose settings and stores are not ours."""
    version = _version_of(out)
    if version is not None and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UserError(
            f"wanted an output folder of weaksam {oldest} or newer, found {out}, made by {version}: name another "
            "out=DIR (the old results stay as they are), or delete the folder"
        )


def refuse_newer(out: Path) -> None:
    """`UserError` where the output folder ``out`` was made by a newer version, whose settings may mean other things."""
    version, own = _version_of(out), tuple(int(part) for part in __version__.split(".")[:2])
    if version is not None and tuple(int(part) for part in version.split(".")[:2]) > own:
        raise UserError(
            f"wanted an output folder of weaksam {'.'.join(map(str, own))} or older, found {out}, made by {version}: "
            "take that version, or run again into another out=DIR"
        )


def _version_of(out: Path) -> str | None:
    """The version that wrote the folder of a run, by its record or the first line of its log; None for a new folder.

    A damaged record, or none as of a run that has not ended yet, leaves it to the log.
    """
    versions = (read_record(out / "run.json") or {}).get("versions")
    if isinstance(versions, Mapping) and _VERSION.match(str(versions.get("weaksam"))):
        return str(versions["weaksam"])
    try:
        with open(out / "log.jsonl", encoding="utf-8") as file:
            version = str(json.loads(file.readline()).get("weaksam", "0.1"))  # 0.1 did not say
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return version if _VERSION.match(version) else None


def _is_note(note: Mapping[str, Any]) -> bool:
    """Whether a stage's ``done.json`` holds what `Run.timed` writes; another is made again."""
    numbers = {name: note[name] for name in ("seconds", "peak_memory_mib", "began") if name in note}
    wanted = {"key", "finished", "seconds"} | ({"peak_memory_mib"} if note.get("finished") is True else set())
    return (
        wanted <= set(note)
        and isinstance(note["finished"], bool)
        and all(type(value) in (int, float) and math.isfinite(value) for value in numbers.values())
    )


def without_truth(dataset: Dataset, tags: bool = True) -> Dataset:
    """``dataset`` as a stage may see it: no true objects, and no tags either where ``tags`` is False."""
    samples = (dataclasses.replace(s, truth=None, tags=s.tags if tags else ()) for s in dataset)
    return dataclasses.replace(dataset, samples=tuple(samples))


def require_finished(run: Run, stages: Sequence[str], settings_hint: str = "CONFIG") -> None:
    """`UserError` where one of ``stages`` is not finished with the run's settings, naming the command that does it."""
    for stage in stages:
        if not run.finished(stage):
            state = "made with other settings, data or seed" if (run.context.out / stage).is_dir() else "not there"
            raise UserError(
                f"wanted the finished stage {stage} in {run.context.out}, found it unfinished or {state}: "
                f"run 'weaksam {stage.replace('_', '-')} {settings_hint}' with the same settings first"
            )
