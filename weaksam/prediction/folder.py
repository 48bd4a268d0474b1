"""Detect on every photo of a folder, into a sealed store and plain files; a killed run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from weaksam import __version__
from weaksam.config import UserError, did_you_mean, fingerprint_of
from weaksam.data.dataset import SplitSettings, load_photos
from weaksam.data.detection_stores import detection_store, row_instances
from weaksam.data.formats.coco import write_instances
from weaksam.data.formats.yolo import write_labels
from weaksam.data.images import LIMITS
from weaksam.data.photo_limits import PhotoLimits
from weaksam.data.sample_photos import read_photos_ahead
from weaksam.prediction.checkpoint import CheckpointHeader
from weaksam.prediction.predictor import Predictor
from weaksam.prediction.result import DRAWN_FROM, Prediction
from weaksam.prediction.tiles import TileSettings
from weaksam.store.files import atomic_file, write_json_atomic
from weaksam.store.progress import progress
from weaksam.store.store import Store
from weaksam.structures.dataset import Dataset, Sample

FORMATS = ("json", "coco", "yolo")
"""What can be written of the predictions."""
PICTURES = "pictures"
_AHEAD = 4


@dataclass(frozen=True)
class FolderPredictions:
    """What was predicted on a folder: the sealed ``store`` with a row for each photo of ``photos``, and ``files``."""

    store: Store
    photos: Dataset
    num_detections: int
    files: tuple[Path, ...]

    def __str__(self) -> str:
        bad = f"; {len(self.photos.bad)} files set aside" if self.photos.bad else ""
        written = ", ".join(map(str, self.files))
        return f"{self.num_detections} detections on {len(self.photos)} photos{bad}: {written}"


def predict_folder(
    predictor: Predictor,
    images: Path,
    out: Path,
    *,
    formats: Sequence[str] = ("json",),
    draw: bool = False,
    min_score: float = 0.0,
    tiles: TileSettings | None = None,
    limits: PhotoLimits = LIMITS,
) -> FolderPredictions:
    """Detect on the photos below ``images`` and write what was detected below ``out``.

    Detections lie in ``OUT/store/predictions-*``, sealed, one row for each photo: the same command finds them again,
    or goes on where it was killed, with the same result. The plain files hold those of at least ``min_score``:

    * ``json``: ``predictions.json``, of each photo its classes by name, scores, boxes (xyxy, pixels) and masks (RLE);
    * ``coco``: ``predictions_coco.json``, COCO instances with a ``score``, all photos listed;
    * ``yolo``: ``labels/*.txt`` and ``labels/classes.txt``, the score as sixth number, boxes alone;
    * with ``draw``: ``pictures/*.jpg``, detections of 0.3 or of ``min_score`` on.

    Files that are no photos are set aside, in ``set_aside.json``. Raises `UserError` for unknown formats, a folder
    without photos, and photos whose label files would be one.
    """
    check_formats(formats)
    header = predictor.checkpoint.header
    photos = load_photos(SplitSettings(images=images), name="predict", limits=limits)
    photos = replace(photos, classes=header.classes, category_ids=header.category_ids)
    if "yolo" in formats:
        _refuse_same_labels(photos)
    store = _filled_store(predictor, photos, out, tiles)
    predictions = StoredPredictions(store, photos, min_score)
    files = [_WRITERS[name](out, predictions, header) for name in dict.fromkeys(formats)]
    if draw:
        files.append(_write_pictures(out, predictions, max(min_score, DRAWN_FROM)))
    if photos.bad:
        files.append(out / "set_aside.json")
        write_json_atomic(files[-1], photos.bad.by_reason, indent=1)
    num = sum(len(prediction) for prediction in predictions)
    return FolderPredictions(store, photos, num, tuple(files))


def check_formats(formats: Sequence[str]) -> None:
    """`UserError` for a format that is not one of `FORMATS`."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(
                f"wanted a format of predictions ({', '.join(FORMATS)}), found {name!r}{did_you_mean(name, FORMATS)}: "
                "name one of them"
            )


@dataclass(frozen=True)
class StoredPredictions:
    """The predictions in a sealed store, read a part at a time; those of at least ``min_score``."""

    store: Store
    photos: Dataset
    min_score: float

    def __iter__(self) -> Iterator[Prediction]:
        for row in self.store.rows():
            sample = self.photos.by_id[row["image_id"]]
            instances = row_instances(row, self.store.folder)
            classes, numbers = self.photos.classes, self.photos.category_ids
            yield Prediction(sample.image_id, sample.size, instances, classes, numbers, sample.path).above(
                self.min_score
            )


def _filled_store(predictor: Predictor, photos: Dataset, out: Path, tiles: TileSettings | None) -> Store:
    """The sealed store of the detections on ``photos``; what lies in it already is not computed again."""
    header = predictor.checkpoint.header
    wants_proposals = predictor.detector.num_proposals > 0
    key = fingerprint_of(
        {
            "stage": "predict",
            "checkpoint": {**header.model_dump(mode="json"), "weaksam": ""},
            "photos": photos.fingerprint,
            "tiles": tiles,
            "segmenter": predictor.segmenter.fingerprint if wants_proposals else "",
        }
    )
    folder = out / "store" / f"predictions-{key[:12]}"
    has_masks = predictor.detector.has_masks
    store = detection_store(folder, "predict", key, photos, masks=has_masks)
    store.command = "weaksam predict"

    def rows(image_ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        samples = [photos.by_id[image_id] for image_id in image_ids]
        photos_ahead = read_photos_ahead(samples, max(_AHEAD, predictor.batch_size))
        for batch in _batches(samples, predictor.batch_size):
            images = list(islice(photos_ahead, len(batch)))
            for sample, instances in zip(batch, predictor.detect(images, tiles=tiles), strict=True):
                row = {"boxes": instances.boxes, "labels": instances.labels, "scores": instances.scores}
                masks = {"rles": list(instances.masks or ())} if has_masks else {}
                yield {"image_id": sample.image_id, **row, **masks}

    return store.fill_parts(rows, progress="predict")


def _batches(samples: Sequence[Sample], batch_size: int) -> Iterator[Sequence[Sample]]:
    return (samples[start : start + batch_size] for start in range(0, len(samples), batch_size))


def _refuse_same_labels(photos: Dataset) -> None:
    """`UserError` where two photos would have one label file."""
    names: dict[PurePosixPath, str] = {}
    for image_id in photos.image_ids:
        stem = PurePosixPath(image_id).with_suffix("")
        if stem in names:
            raise UserError(
                f"wanted photos whose names differ without their endings for yolo labels, found {names[stem]} and "
                f"{image_id}: rename one of them, or take --format json or coco"
            )
        names[stem] = image_id


# Files


def _write_json(out: Path, predictions: StoredPredictions, header: CheckpointHeader) -> Path:
    """All predictions as one JSON object, a photo a line, written as they are read."""
    path = out / "predictions.json"
    about = {
        "weaksam": __version__,
        "architecture": header.architecture,
        "classes": list(header.classes),
        "licence": header.licence,
        "min_score": predictions.min_score,
        "set_aside": dict(predictions.photos.bad),
    }
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(about)[:-1] + ', "photos": [')
        for number, prediction in enumerate(predictions):
            file.write(f"{',' if number else ''}\n{json.dumps(prediction.as_dict())}")
        file.write("\n]}\n")
    return path


def _write_coco(out: Path, predictions: StoredPredictions, header: CheckpointHeader) -> Path:
    path = out / "predictions_coco.json"
    instances = {prediction.name: prediction.instances for prediction in predictions}
    write_instances(path, predictions.photos, instances)
    return path


def _write_yolo(out: Path, predictions: StoredPredictions, header: CheckpointHeader) -> Path:
    instances = {prediction.name: prediction.instances for prediction in predictions}
    write_labels(out / "labels", predictions.photos, instances)
    return out / "labels"


_WRITERS = {"json": _write_json, "coco": _write_coco, "yolo": _write_yolo}


def _write_pictures(out: Path, predictions: StoredPredictions, min_score: float) -> Path:
    """Every photo with its detections as JPEG, under its whole name and ``.jpg``."""
    for prediction in progress(predictions, len(predictions.photos), "predict: pictures"):
        with atomic_file(out / PICTURES / f"{prediction.name}.jpg") as temporary:
            prediction.draw(min_score).save(temporary, format="JPEG", quality=88)
    return out / PICTURES
