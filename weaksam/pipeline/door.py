"""Offer the pipeline to Python: plain arguments in, values out; ``import weaksam`` hands out these functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from weaksam.config import Settings, UserError, load_settings
from weaksam.data import dataset as splits
from weaksam.data.images import LIMITS
from weaksam.data.photo_limits import PhotoLimits
from weaksam.engine.device import pick_device
from weaksam.evaluation import files
from weaksam.evaluation.files import FileFigures
from weaksam.pipeline import running
from weaksam.pipeline.result import RunResult
from weaksam.pipeline.settings import RunSettings
from weaksam.prediction.photos import OpenedPhoto, all_readable, is_folder, is_several, open_photo, photos_of
from weaksam.prediction.result import Prediction
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.protocol import Segmenter
from weaksam.stages import proposals as proposal_stage
from weaksam.structures.clue_points import CluePoints
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

PathLike = str | Path


def run(
    config: PathLike | RunSettings | None = None,
    *,
    images: PathLike | None = None,
    tags: PathLike | None = None,
    out: PathLike | None = None,
    start: str | None = None,
    until: str | None = None,
    **settings: Any,
) -> RunResult:
    """Run the pipeline, or the stages from ``start`` to ``until``, and return what they made.

    ``config`` is a YAML file or settings (None: the defaults); ``images`` and ``tags`` are those of the training
    photos. Further settings are keywords: a section takes a mapping (``wsod={"num_epochs": 20}``), and a dotted key
    goes in by ``**{"wsod.num_epochs": 20}``. The same settings resume. Raises `UserError` for bad input.
    """
    paths = {"data.train.images": images, "data.train.tags": tags, "out": out}
    values = {**settings, **{key: str(path) for key, path in paths.items() if path is not None}}
    return RunResult(*running.run_stages(settings_of(config, values), start, until))


def settings_of(config: PathLike | RunSettings | None, values: Mapping[str, Any]) -> RunSettings:
    """`RunSettings` of a YAML file or of other settings, with ``values`` set in them; raises `UserError`."""
    if isinstance(config, RunSettings):
        overrides = [*overrides_of(written_values(config)), *overrides_of(values)]
        return load_settings(RunSettings, None, overrides)
    return load_settings(RunSettings, None if config is None else Path(config), overrides_of(values))


def overrides_of(values: Mapping[str, Any], section: str = "") -> list[str]:
    """``key=value`` overrides, as the command line takes them, of nested settings; an empty section gives none."""
    overrides: list[str] = []
    for name, value in values.items():
        if isinstance(value, Settings):
            value = written_values(value)
        if isinstance(value, Mapping):
            overrides += overrides_of(value, f"{section}{name}.")
        else:
            overrides.append(f"{section}{name}={json.dumps(value, default=str)}")
    return overrides


def written_values(settings: Settings) -> dict[str, Any]:
    """What was written into settings, as JSON-like values; a tagged section always says of which kind it is."""
    values: dict[str, Any] = settings.model_dump(mode="json", exclude_unset=True)
    for name, field in type(settings).model_fields.items():
        section = getattr(settings, name)
        if name in values and isinstance(section, Settings):
            tag = field.discriminator
            kind = {tag: getattr(section, tag)} if isinstance(tag, str) else {}
            values[name] = kind | written_values(section)
    return values


def propose(
    images: Any,
    *,
    sam: Segmenter | PathLike | None = None,
    clues: CluePoints | None = None,
    device: str = "auto",
    limits: PhotoLimits = LIMITS,
    **settings: Any,
) -> Any:
    """Class-free proposals: boxes ``(N, 4)`` half-open xyxy in photo pixels, scores and masks, best first.

    ``images``: a photo (its file, a picture of Pillow, or uint8 RGB ``(H, W, 3)``) gives its `Proposals`; a list or
    tuple of photos a list of them; a folder or any other iterable an iterator over pairs of a photo's name and its
    proposals, which passes over files that are no photos. ``sam``: a Segment Anything checkpoint, a folder or hub id
    of transformers, or a segmenter that `weaksam.sam.build.build_segmenter` made (once, for many calls); None takes the
    offline default. ``clues``: points of classes that prompt beside the grid, of a single photo. ``limits``: the
    largest file that is read. ``settings`` are fields of the section ``proposals``, such as ``max_proposals=100`` or,
    for large photos, ``tile=1024``. A photo in which nothing is found gives N = 0. Raises `UserError` for a file that
    is no photo, weights that do not fit and settings that are not there.
    """
    chosen = load_settings(proposal_stage.ProposalSettings, None, overrides_of(settings))
    is_one = not is_folder(images) and isinstance(images, (str, Path, np.ndarray, Image.Image))
    if clues is not None and not is_one:
        raise UserError("wanted a single photo for clue points, found several: call propose for each")
    first = [open_photo(images, "photo", limits)] if is_one else []  # no segmenter is built for what is no photo
    if sam is None or isinstance(sam, (str, Path)):
        weights = None if sam is None else Path(sam)
        sam = build_segmenter(SegmenterSettings(weights=weights), pick_device(device))
    if is_one:
        return proposal_stage.propose(sam, first[0].pixels, clues, chosen)
    photos = photos_of(images, limits)
    if is_several(images):
        return [proposal_stage.propose(sam, photo.pixels, None, chosen) for photo in all_readable(photos)]
    readable = (photo for photo in photos if isinstance(photo, OpenedPhoto))
    return ((photo.name, proposal_stage.propose(sam, photo.pixels, None, chosen)) for photo in readable)


def evaluate(
    detections: PathLike | Mapping[str, Instances] | Iterable[Prediction],
    truth: PathLike | Dataset,
    metrics: Sequence[str] = ("voc", "corloc", "coco"),
    **options: Any,
) -> FileFigures:
    """Measure detections against a truth; returns figures by name, see `weaksam.evaluation.files.evaluate_files`.

    Two paths: any detection file against any truth file. Else ``detections`` are those of `RunResult.detections` (by
    image id) or the predictions of `Predictor.predict` on the split's folder, and ``truth`` a split that `load_dataset`
    read with its true objects. ``metrics``: voc, voc11, corloc, coco, mask, boundary, mask_iou, miou, pq. ``options``:
    ``keep`` (a `DetectionFilter`), and for files the other arguments of `evaluate_files`. Raises `UserError` where the
    two do not fit together.
    """
    if isinstance(detections, (str, Path)) != isinstance(truth, (str, Path)):
        raise UserError(
            "wanted two files, or detections and a split that was read, found one of each: read the truth by "
            "load_dataset, or name the file of detections"
        )
    if isinstance(detections, (str, Path)) and isinstance(truth, (str, Path)):
        return files.evaluate_files(truth, detections, metrics, **options)
    assert isinstance(truth, Dataset)
    if not isinstance(detections, Mapping):
        assert not isinstance(detections, (str, Path))
        detections = {prediction.name: prediction.instances for prediction in detections}
    return files.evaluate_instances(detections, truth, metrics, **options)


def load_dataset(
    images: PathLike,
    tags: PathLike | None = None,
    truth: PathLike | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "train",
    limits: PhotoLimits = LIMITS,
) -> Dataset:
    """Read one split: the photos below ``images`` with their tags and, where ``truth`` is given, their true objects.

    ``tags``: a tag file (CSV, JSON, JSONL), class folders or VOC ``ImageSets/Main``; without it the tags are those of
    ``truth``, without either those of class folders. Photos that cannot be read, or are over ``limits``, are in
    ``Dataset.bad``. Raises `UserError`.
    """
    paths = {"images": images, "tags": tags, "truth": truth}
    split = splits.SplitSettings(**{key: Path(path) for key, path in paths.items() if path is not None})
    return splits.load_dataset(split, name=name, classes=None if classes is None else tuple(classes), limits=limits)
