"""Train the detector with mmdet or detectron2 on pseudo ground truth, and bring its detections into stores."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from weaksam.config import UserError, fingerprint_of, listed
from weaksam.data.detection_files import read_detections
from weaksam.data.detection_stores import detection_store, instances_key, instances_of
from weaksam.data.formats.coco import write_instances, write_results
from weaksam.data.label_export import FORMATS, ExportOptions, place_photos
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.result import DetectorResult
from weaksam.stages.retrain.settings import AnyRetrainSettings, FrameSettings
from weaksam.store.files import atomic_folder
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.boxes import area, clip
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.terminal import say

_CONFIG = {"mmdet": "{}.py", "detectron2": "{}.yaml"}
_LOG = "engine.log"
HEEDED = frozenset(FrameSettings.model_fields) | {"detector", "min_score", "max_boxes", "detect_train"}
"""Settings that count where another frame trains."""


def run_in_frame(
    context: RunContext, settings: AnyRetrainSettings, pseudo_gt: Mapping[str, Instances], name: str, files: str
) -> DetectorResult:
    """Train ``settings.engine``'s detector on ``pseudo_gt`` (by image id) and detect, as `stage.run` does with ours.

    The folder ``OUT/<name>/store/<engine>-...`` gets what ``weaksam export`` writes and an empty list of the test
    photos; its ``train.py`` runs in a process of its own, with ``settings.engine_python``. The recipe is the exported
    configuration, changed by ``settings.engine_options``; of the other settings those in `HEEDED` alone count, and what
    else was given is named. A folder whose detections are there is not trained again. Raises `UserError` where no photo
    has a box, the frame is not installed, or its process fails.
    """
    if not any(len(objects.without_crowd()) for objects in pseudo_gt.values()):
        raise UserError(f"wanted pseudo boxes to train {name} on, found none on any photo: see docs/pseudo_gt.md")
    key = {"train": context.train.fingerprint, "pseudo_gt": fingerprint_of(instances_key(pseudo_gt))}
    key |= {"seed": str(context.seed)}
    fingerprint = stage_fingerprint(f"{name} {settings.engine}", settings, key)
    folder = store_folder(context.out, name, settings.engine, fingerprint)
    splits = {"train": context.train} | ({} if context.test is None else {"test": context.test})
    if not folder.is_dir():
        write_frame_folder(folder, settings.engine, context.train, context.test, pseudo_gt)
    if not all(detections_file(folder, dataset.name).is_file() for dataset in splits.values()):
        _train(folder, settings, name)
    stores = {}
    for split, dataset in splits.items():
        stores[split] = _stored(context, settings, folder, split, dataset, fingerprint, name)
        write_results(context.out / name / f"{files}_{split}.json", dataset, instances_of(stores[split]))
    return DetectorResult(_weights(folder), fingerprint, stores, context.backbone)


def write_frame_folder(
    folder: Path, engine: str, train: Dataset, test: Dataset | None, pseudo_gt: Mapping[str, Instances]
) -> None:
    """Write the exported format ``engine`` of the training photos, and beside it the list and links of test photos."""
    form = FORMATS[engine]
    with atomic_folder(folder) as temporary:
        form.write(temporary, train, pseudo_gt, ExportOptions())
        place_photos(temporary, form, train, "link")
        if test is not None:
            write_instances(temporary / "annotations" / f"{test.name}.json", test, {})
            place_photos(temporary, form, test, "link")


def detections_file(folder: Path, name: str) -> Path:
    """Where the script of an exported folder leaves its detections on the split of that name (COCO results)."""
    return folder / f"detections_{name}.bbox.json"


def frame_command(folder: Path, settings: AnyRetrainSettings) -> list[str]:
    """What trains in a folder that was written: the interpreter, its script, the configuration and the options."""
    python = sys.executable if settings.engine_python is None else str(settings.engine_python)
    config = _CONFIG[settings.engine].format(settings.detector)
    return [python, str(folder / "train.py"), config, *settings.engine_options]


def unheeded_settings(settings: AnyRetrainSettings) -> list[str]:
    """Names of the settings that were given and that another frame does not read; none where all count."""
    return sorted(settings.model_fields_set - HEEDED)


def _train(folder: Path, settings: AnyRetrainSettings, name: str) -> None:
    """Run the folder's script; `UserError` where the frame is missing or the script fails, with its last line."""
    if settings.engine_python is None and importlib.util.find_spec(settings.engine) is None:
        raise UserError(
            f"wanted {settings.engine} for {name}.engine={settings.engine}, found it not installed: install it (see "
            f"docs/formats.md), or name a Python that has it as {name}.engine_python=PATH"
        )
    command = frame_command(folder, settings)
    if unheeded := unheeded_settings(settings):
        say(
            f"{name}: {settings.engine} trains by its own configuration, so {listed(unheeded)} count for nothing: "
            f"change it by {name}.engine_options"
        )
    say(f"{name}: {settings.engine} trains in {folder} (its lines are in {_LOG} there)")
    try:
        with open(folder / _LOG, "w", encoding="utf-8") as log:
            code = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    except OSError as error:
        raise UserError(
            f"wanted a Python to run {settings.engine} with, found that {command[0]} does not start "
            f"({error.strerror}): check {name}.engine_python"
        ) from None
    if code != 0:
        lines = (folder / _LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        raise UserError(
            f"wanted detections of {settings.engine}, found that its process ended with {code} ({last[:300]}): see "
            f"{folder / _LOG}, mend it and run again"
        )


def _stored(
    context: RunContext,
    settings: AnyRetrainSettings,
    folder: Path,
    split: str,
    dataset: Dataset,
    fingerprint: str,
    name: str,
) -> Store:
    """The sealed store of the detections on one split, within their photos."""
    store_key = stage_fingerprint(f"{name} {split}", settings, {"weights": fingerprint, "photos": dataset.fingerprint})
    store = detection_store(store_folder(context.out, name, split, store_key), name, store_key, dataset, masks=False)
    if store.sealed:
        return store
    path = detections_file(folder, dataset.name)
    if not path.is_file():
        raise UserError(f"wanted the detections of {settings.engine} at {path}, found nothing there: see {_LOG} there")
    of_photos = read_detections(path, dataset)

    def row(image_id: str) -> dict[str, Any]:
        detections = _kept(of_photos[image_id], dataset.by_id[image_id].size, settings)
        assert detections.scores is not None  # COCO results have them
        return {"boxes": detections.boxes, "labels": detections.labels, "scores": detections.scores}

    return store.fill(row, cheap=True)


def _kept(detections: Instances, size: tuple[int, int], settings: AnyRetrainSettings) -> Instances:
    """The best detections of a photo, clipped to it, as `min_score` and `max_boxes` of the settings say."""
    scores = torch.zeros(0) if detections.scores is None else detections.scores
    boxes = clip(detections.boxes, size)
    order = scores.argsort(descending=True, stable=True)
    order = order[(scores >= settings.min_score)[order] & (area(boxes) > 0)[order]][: settings.max_boxes]
    return Instances(boxes, detections.labels, scores)[order]


def _weights(folder: Path) -> Path:
    """The last checkpoint that the frame wrote in ``folder``; the folder of its work where it left none."""
    for path in sorted(folder.glob("work_dirs/*/last_checkpoint")):
        checkpoint = path.with_name(Path(path.read_text(encoding="utf-8").strip()).name)
        if checkpoint.is_file():
            return checkpoint
    return folder / "work_dirs"
