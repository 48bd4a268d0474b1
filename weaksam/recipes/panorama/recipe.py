"""Run the recipe: assistant, its rectification, pseudo maps, student, and the figures of each (GoodSAM-style)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weaksam.config import UserError
from weaksam.engine.device import pick_device
from weaksam.engine.distributed import own_device, this_process
from weaksam.engine.log import RunLog
from weaksam.engine.seeds import seed_everything
from weaksam.engine.training import fit
from weaksam.models.ranks import ranks
from weaksam.models.semantic.network import SemanticNetwork
from weaksam.recipes.panorama.assistant import (
    ASSISTANT,
    RECTIFIED,
    PhotoCrops,
    Rectification,
    RectifiedBatch,
    build_assistant,
    job_of,
    label_loss_of,
    objective,
    trained,
)
from weaksam.recipes.panorama.fusion import DOUBTFUL
from weaksam.recipes.panorama.measuring import Predict, measured, on_whole, on_windows
from weaksam.recipes.panorama.photos import SemanticPhotos, load_panoramas, load_semantic
from weaksam.recipes.panorama.pseudo_maps import fused, pseudo_maps
from weaksam.recipes.panorama.settings import PanoramaSettings
from weaksam.recipes.panorama.student import (
    STUDENT,
    AssistantTargets,
    Distillation,
    MomentaryTargets,
    PanoramaBatch,
    StudentTargets,
    TrueTargets,
    build_student,
    check_start,
    start_of,
)
from weaksam.recipes.panorama.windows import MaskStore, WindowMasks
from weaksam.store.files import write_json_atomic
from weaksam.store.store import Store
from weaksam.store.weights import content_sha256, save_weights
from weaksam.terminal import say

STUDENT_FILE = "student.safetensors"
"""The trained student below OUT, for ``weaksam panorama predict``."""
KIND = "panorama student"
"""What the file says it is."""
MasksOf = Callable[[SemanticPhotos, str], MaskStore]
"""Panoramas and the name of their split to the sealed proposals of their windows."""
ROWS = ("assistant_whole", "assistant_windows", "rectified_windows", "ensemble", "student")
"""What is measured, in this order."""


@dataclass
class PanoramaRun:
    """The photos, networks and figures of a run as it goes on."""

    settings: PanoramaSettings
    device: torch.device
    log: RunLog
    train: SemanticPhotos
    test: SemanticPhotos | None
    photos: SemanticPhotos | None
    masks_of: MasksOf
    figures: dict[str, Any]

    def measure(self, name: str, predict: Callable[[SemanticPhotos], Predict]) -> None:
        """Measure on the test panoramas, if there are any; on the first process alone."""
        if self.test is not None and ranks().first:
            result = measured(predict(self.test), self.test, name.replace("_", " "))
            self.figures[name] = result.as_dict(self.test.classes)
            if (result.confusion.sum(axis=0) > 0).sum() <= 1 and result.confusion.any():
                say(f"panorama: {name.replace('_', ' ')} predicts one class everywhere", error=True)

    def masks(self, photos: SemanticPhotos, split: str) -> WindowMasks:
        """The masks of the windows of a split."""
        return WindowMasks(self.masks_of(photos, split), photos, self.settings.windows, self.settings.max_masks)


def run(settings: PanoramaSettings, masks_of: MasksOf) -> dict[str, Any]:
    """Train the student of ``settings``, write OUT/student.safetensors, and return the figures of OUT/metrics.json.

    ``masks_of`` makes or finds the masks of panoramas' windows. A second call with the same settings goes on where the
    first stopped, to the same bytes. Processes that were started together share masks and pseudo maps and train
    together; the first one measures and writes. Raises `UserError` for data, networks and settings that do not fit.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    seed_everything(settings.seed)
    of = loaded(settings, masks_of)
    assistant = first_assistant(of)
    of.measure("assistant_whole", lambda photos: on_whole(assistant, photos))
    of.measure("assistant_windows", lambda photos: on_windows(assistant, photos, settings.windows.windows))
    student = _joint(of, assistant) if settings.phases == "joint" else _in_two_phases(of, assistant)
    of.measure("student", lambda photos: on_whole(student, photos))
    if ranks().first:
        save_student(settings, student, of.train)
        write_json_atomic(settings.out / "metrics.json", of.figures)
    ranks().wait()
    return of.figures


def loaded(settings: PanoramaSettings, masks_of: MasksOf) -> PanoramaRun:
    """The photos of a run, nothing trained yet."""
    data, targets = settings.data, settings.student.targets
    train = load_panoramas(data, "train", labelled=targets == "true")
    test = None if data.test is None else load_panoramas(data, "test", labelled=True)
    photos = None if data.photos is None else load_semantic(data, "photos", labelled=True)
    if photos is None and settings.assistant.weights is None and settings.assistant.steps:
        raise UserError(
            "wanted an assistant, found neither assistant.weights nor pinhole photos with class maps to train one on: "
            "set one of assistant.weights and data.photos"
        )
    if settings.student.weights is not None:
        build_student(
            settings.student, train.classes, settings.seed
        )  # one that does not fit is refused before all work
    if ranks().size > len(train):
        raise UserError(
            f"wanted at most as many processes as panoramas that train, found {ranks().size} for {len(train)}: start "
            "fewer"
        )
    figures = {"settings": settings.model_dump(mode="json"), "style": "GoodSAM-style: a reconstruction"}
    log = RunLog(settings.out / "log.jsonl" if ranks().first else None)
    device = pick_device(own_device(settings.device, this_process()))
    return PanoramaRun(settings, device, log, train, test, photos, masks_of, figures)


def first_assistant(of: PanoramaRun) -> SemanticNetwork:
    """The assistant for pinhole photos: read, or trained on them in OUT/assistant."""
    settings = of.settings
    assistant = build_assistant(settings, of.train.classes, of.device)
    check_start(settings.student, assistant)  # one that does not fit is refused before all work
    crops = _crops(of, settings.assistant.batch_size)
    if settings.assistant.weights is None and settings.assistant.steps and crops is not None:
        inputs = [settings.assistant, settings.windows, crops.photos.fingerprint]
        job = job_of(settings, ASSISTANT, "assistant", settings.assistant.steps, inputs, of.log)
        trained(
            assistant,
            settings.assistant,
            lambda batch: {"labels": label_loss_of(assistant, batch)},
            crops.batches,
            crops.batches_per_epoch,
            job,
        )
    return assistant.eval()


def _crops(of: PanoramaRun, batch_size: int) -> PhotoCrops | None:
    """Crops of the pinhole photos of the windows' size; None where there are no photos."""
    return None if of.photos is None else PhotoCrops(of.photos, of.settings.windows.size, batch_size, of.settings.seed)


def weights_sha256(network: nn.Module) -> str:
    """Hex of all weights of a network; of several processes those of the first."""
    return str(ranks().from_first(content_sha256(network.state_dict(), {})))


def _in_two_phases(of: PanoramaRun, assistant: SemanticNetwork) -> SemanticNetwork:
    """Adapt the assistant, then distil it; the student. True labels leave the assistant out."""
    settings, targets = of.settings, of.settings.student.targets
    votes, rectifies = targets == "ensemble", settings.rectification.steps and targets != "true"
    start = start_of(settings.student, assistant)
    masks = of.masks(of.train, "train") if rectifies or votes else None
    if rectifies and masks is not None:
        _rectify(of, assistant, masks)
        of.measure("rectified_windows", lambda photos: on_windows(assistant, photos, settings.windows.windows))
    sha256 = weights_sha256(assistant)
    store: Store | None = None
    if votes and masks is not None:
        store = pseudo_maps(assistant, masks, settings.fusion, settings.out, sha256)
        _note_votes(of, store)
        _measure_ensemble(of, assistant)
    of_targets: StudentTargets = (
        TrueTargets(of.train) if targets == "true" else AssistantTargets(assistant, of.train, settings, store)
    )
    learnt = None if targets == "true" else assistant
    distillation = Distillation(settings, of.train, learnt, of_targets, start).to(of.device)
    inputs = [settings.student, settings.windows, of.train.fingerprint]
    inputs += [] if start is None else [weights_sha256(start)]
    inputs += [] if targets == "true" else [sha256, "" if store is None else store.fingerprint]
    job = job_of(settings, STUDENT, "student", settings.student.steps, inputs, of.log)
    if settings.student.steps:
        trained(
            distillation,
            settings.student,
            distillation.losses,
            distillation.batches,
            distillation.batches_per_epoch,
            job,
        )
    return distillation.student.eval()


def _rectify(of: PanoramaRun, assistant: SemanticNetwork, masks: WindowMasks) -> None:
    """Adapt the assistant to the windows of the panoramas, in OUT/rectified."""
    settings = of.settings
    rectification = Rectification(assistant, of.train, masks, _crops(of, settings.assistant.batch_size), settings)
    inputs = [settings.rectification, settings.windows, settings.assistant, settings.max_masks, of.train.fingerprint]
    inputs += [masks.store.fingerprint, weights_sha256(assistant), of.photos.fingerprint if of.photos else ""]
    job = job_of(settings, RECTIFIED, "rectified", settings.rectification.steps, inputs, of.log)
    trained(
        assistant,
        settings.rectification,
        rectification.losses,
        rectification.batches,
        rectification.batches_per_epoch,
        job,
    )
    assistant.eval()


def _joint(of: PanoramaRun, assistant: SemanticNetwork) -> SemanticNetwork:
    """A step of the student and one of the assistant in turn, in OUT/joint; the student."""
    settings, masks = of.settings, of.masks(of.train, "train")
    targets, start = MomentaryTargets(assistant, masks, settings), start_of(settings.student, assistant)
    distillation = Distillation(settings, of.train, assistant, targets, start)
    distillation.to(of.device)
    rectification = Rectification(assistant, of.train, masks, _crops(of, settings.assistant.batch_size), settings)
    inputs = [settings.student, settings.rectification, settings.windows, settings.fusion, settings.assistant]
    inputs += [settings.max_masks, of.train.fingerprint, masks.store.fingerprint, weights_sha256(assistant)]
    job = job_of(settings, STUDENT, "joint", settings.student.steps, inputs, of.log)

    def rectified(batch: PanoramaBatch) -> dict[str, torch.Tensor]:
        return rectification.losses(RectifiedBatch(batch.image_ids, batch.rows, batch.epoch, None, batch.counts))

    fit(
        nn.ModuleDict({"distillation": distillation, "assistant": assistant}),
        [
            objective(distillation, settings.student, distillation.losses),
            objective(assistant, settings.rectification, rectified),
        ],
        distillation.batches,
        job,
        num_steps_per_epoch=distillation.batches_per_epoch,
    )
    of.measure("rectified_windows", lambda photos: on_windows(assistant, photos, settings.windows.windows))
    _measure_ensemble(of, assistant)
    return distillation.student.eval()


def _measure_ensemble(of: PanoramaRun, assistant: SemanticNetwork) -> None:
    """Measure the pseudo maps of the test panoramas, doubtful pixels by the ensemble's best class, if asked for."""
    if of.test is None or not of.settings.measure_ensemble:
        return
    masks = of.masks(of.test, "test")
    settings = of.settings.fusion.model_copy(update={"max_entropy": 1.0})
    of.measure("ensemble", lambda photos: lambda row: fused(assistant.eval(), masks, row, settings).labels)


def _note_votes(of: PanoramaRun, store: Store) -> None:
    """Say where no mask voted, which leaves the assistant's own labels, and where nothing is left to learn."""
    silent = [row["image_id"] for row in store.rows("written") if not row["written"]]
    if silent:
        say(
            f"panorama: no mask rewrote a pixel of {len(silent)} of {len(of.train)} panoramas; their pseudo maps are "
            "the assistant's own",
            error=True,
        )
    of.log.write("pseudo maps", panoramas=len(of.train), without_votes=len(silent), doubtful=DOUBTFUL)


def save_student(settings: PanoramaSettings, student: SemanticNetwork, photos: SemanticPhotos) -> Path:
    """Write OUT/student.safetensors: weights, classes, and how panoramas were shown to it."""
    facts = {
        "kind": KIND,
        "classes": list(photos.classes),
        "architecture": student.architecture(),
        "colours": [student.mean.flatten().tolist(), student.std.flatten().tolist()],
        "vertical_degrees": settings.data.vertical_degrees,
        "height": settings.data.height,
    }
    path = settings.out / STUDENT_FILE
    save_weights(path, student.state_dict(), facts)
    return path


def text(figures: Mapping[str, Any]) -> str:
    """The figures as a table for the terminal; a sentence where nothing was measured."""
    rows = [name for name in ROWS if name in figures]
    if not rows:
        return "nothing was measured: set data.test.images and data.test.labels"
    lines = [f"{'':<20}{'mIoU':>8}{'boundary F':>12}{'accuracy':>10}"]
    for name in rows:
        of = figures[name]
        values = [float("nan") if of[key] is None else of[key] for key in ("mean_iou", "mean_boundary_f", "accuracy")]
        lines.append(f"{name.replace('_', ' '):<20}{values[0]:8.3f}{values[1]:12.3f}{values[2]:10.3f}")
    return "\n".join([*lines, figures[rows[-1]]["protocol"]])
