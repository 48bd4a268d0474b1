"""Load a checkpoint and detect with it on photos of any form."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from weaksam.data.images import LIMITS
from weaksam.data.photo_limits import PhotoLimits
from weaksam.engine.device import pick_device
from weaksam.prediction.checkpoint import Checkpoint, ProposalMaking, read_checkpoint
from weaksam.prediction.networks import PhotoDetector, build_detector
from weaksam.prediction.photos import (
    OnePhoto,
    OpenedPhoto,
    UnreadablePhoto,
    all_readable,
    is_folder,
    is_several,
    open_photo,
    photos_of,
)
from weaksam.prediction.result import Prediction
from weaksam.prediction.tiles import TileSettings, detect_in_tiles
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.protocol import Segmenter
from weaksam.stages.proposals import propose
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import Proposals
from weaksam.terminal import say

CUDA_BATCH = 8
"""Photos of one size that go through the network together on a GPU; on a CPU that gains nothing."""


class Predictor:
    """A trained detector that is ready for new photos: the weak detector, Faster R-CNN, DINO, Mask R-CNN, Mask2Former.

    ``classes`` are their names by label. The weak detector scores proposals, so it makes them first, with the segmenter
    and the settings of its checkpoint, from the grid alone: the clue points of a run need its tag classifier.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        sam: Segmenter | str | Path | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.device = pick_device(device)
        self.detector: PhotoDetector = build_detector(checkpoint, self.device)
        self.batch_size = batch_size or (CUDA_BATCH if self.device.type == "cuda" else 1)
        self._segmenter = sam

    @property
    def architecture(self) -> str:
        """weak_frozen, weak_end_to_end, faster_rcnn, dino, mask_rcnn or mask2former."""
        return self.checkpoint.header.architecture

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.checkpoint.header.classes

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Their numbers in COCO files, by label."""
        return self.checkpoint.header.category_ids

    def __repr__(self) -> str:
        return f"Predictor({self.architecture}, {len(self.classes)} classes, {self.device})"

    @overload
    def predict(
        self,
        source: np.ndarray | Image.Image,
        *,
        min_score: float = 0.0,
        tiles: TileSettings | int | None = None,
        limits: PhotoLimits = LIMITS,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        source: str | Path,
        *,
        min_score: float = 0.0,
        tiles: TileSettings | int | None = None,
        limits: PhotoLimits = LIMITS,
    ) -> Any: ...

    @overload
    def predict(
        self,
        source: Sequence[OnePhoto],
        *,
        min_score: float = 0.0,
        tiles: TileSettings | int | None = None,
        limits: PhotoLimits = LIMITS,
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self,
        source: Iterator[OnePhoto],
        *,
        min_score: float = 0.0,
        tiles: TileSettings | int | None = None,
        limits: PhotoLimits = LIMITS,
    ) -> PredictionStream: ...

    def predict(
        self,
        source: Any,
        *,
        min_score: float = 0.0,
        tiles: TileSettings | int | None = None,
        limits: PhotoLimits = LIMITS,
    ) -> Prediction | list[Prediction] | PredictionStream:
        """Detect on a photo, on several, or on all of a folder.

        A photo (its path, a picture of Pillow, or uint8 RGB ``(H, W, 3)``) gives a `Prediction`, a list or tuple of
        them a list. A folder and any other iterable give a `PredictionStream`, which reads and detects as it is
        iterated over, so that any number of photos takes the memory of a few; files that are no photos are set aside in
        its ``bad``. ``min_score`` drops detections below it; the checkpoint's own least score holds besides. ``tiles``:
        detect in overlapping tiles of so many pixels a side (or `TileSettings`), for photos far larger than the
        network's input. ``limits``: the largest file that is read. Raises `UserError` for what is no photo.
        """
        tiling = TileSettings(side=tiles) if isinstance(tiles, int) else tiles
        if not is_folder(source) and isinstance(source, (str, Path, np.ndarray, Image.Image)):
            return next(self._predictions([open_photo(source, "photo", limits)], min_score, tiling))
        photos = photos_of(source, limits)
        if is_several(source):
            return list(self._predictions(all_readable(photos), min_score, tiling))
        return PredictionStream(self, photos, min_score, tiling)

    def detect(
        self,
        images: Sequence[np.ndarray],
        proposals: Sequence[Proposals] | None = None,
        tiles: TileSettings | None = None,
    ) -> list[Instances]:
        """Detections on each of ``images``, uint8 RGB ``(H, W, 3)``; photos of one size go through together.

        ``proposals`` of each photo are those to score, or to add, where the network wants some; made here if None.
        """
        if tiles is not None:
            return [detect_in_tiles(self.detect, image, tiles) for image in images]
        detections: list[Instances] = []
        numbers = range(len(images))
        for _, group in itertools.groupby(numbers, lambda number: images[number].shape):
            of_size = list(group)
            for start in range(0, len(of_size), self.batch_size):
                chosen = of_size[start : start + self.batch_size]
                shown = [images[number] for number in chosen]
                given = [proposals[number] for number in chosen] if proposals is not None else self._proposals(shown)
                detections += self.detector.detect(shown, given)
        return detections

    def _proposals(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        """Proposals of each photo where the network wants some, else nothing."""
        making = self.checkpoint.header.proposals
        if self.detector.num_proposals == 0 or making is None:
            return []
        return [propose(self.segmenter, image, settings=making.proposals) for image in images]

    @property
    def segmenter(self) -> Segmenter:
        """The frozen segmenter that proposes, built when it is first asked for; raises `UserError` where it cannot."""
        if self._segmenter is None or isinstance(self._segmenter, (str, Path)):
            self._segmenter = self._built_segmenter(self._segmenter)
        return self._segmenter

    def _built_segmenter(self, weights: str | Path | None) -> Segmenter:
        making = self.checkpoint.header.proposals or ProposalMaking()
        if weights is not None:
            return build_segmenter(SegmenterSettings(weights=Path(weights)), self.device)
        segmenter = build_segmenter(making.segmenter, self.device)
        if making.segmenter_fingerprint not in ("", segmenter.fingerprint):
            say(
                f"the segmenter {segmenter.name} is another than the one whose proposals trained "
                f"{self.checkpoint.path or 'this checkpoint'}: its detections may be worse",
                error=True,
            )
        return segmenter

    def _predictions(
        self, photos: Iterable[OpenedPhoto], min_score: float, tiles: TileSettings | None
    ) -> Iterator[Prediction]:
        """The predictions on ``photos``, a batch at a time."""
        waiting = iter(photos)
        while batch := list(itertools.islice(waiting, self.batch_size)):
            detections = self.detect([photo.pixels for photo in batch], tiles=tiles)
            for photo, instances in zip(batch, detections, strict=True):
                yield self._prediction(photo, instances, min_score)

    def _prediction(self, photo: OpenedPhoto, instances: Instances, min_score: float) -> Prediction:
        size = (photo.pixels.shape[0], photo.pixels.shape[1])
        prediction = Prediction(photo.name, size, instances, self.classes, self.category_ids, photo.source)
        return prediction.above(min_score) if min_score > 0 else prediction


class PredictionStream(Iterator[Prediction]):
    """The predictions on a folder's photos, or on those of an iterator, made one after the other as they are asked for.

    ``bad``: by name the files so far that are no photos, with the reason.
    """

    def __init__(
        self,
        predictor: Predictor,
        photos: Iterable[OpenedPhoto | UnreadablePhoto],
        min_score: float,
        tiles: TileSettings | None,
    ) -> None:
        self.bad: dict[str, str] = {}
        self._predictions = predictor._predictions(self._readable(photos), min_score, tiles)

    def __next__(self) -> Prediction:
        return next(self._predictions)

    def _readable(self, photos: Iterable[OpenedPhoto | UnreadablePhoto]) -> Iterator[OpenedPhoto]:
        for photo in photos:
            if isinstance(photo, UnreadablePhoto):
                self.bad[photo.name] = photo.reason
            else:
                yield photo


def load(
    checkpoint: str | Path,
    *,
    device: str = "auto",
    sam: Segmenter | str | Path | None = None,
    batch_size: int | None = None,
) -> Predictor:
    """The detector in the file ``checkpoint``, which ``wsod``, ``retrain`` and ``wsis`` write into their folders.

    ``device``: auto, cpu, cuda, cuda:N or mps. ``sam``: another segmenter than the checkpoint names, as for
    `weaksam.propose`; only detectors that want proposals use it. ``batch_size``: photos of one size that go through the
    network together; None: 8 on a GPU, else 1. Raises `UserError` for a file that is no checkpoint, or of another
    version.
    """
    return Predictor(read_checkpoint(Path(checkpoint)), device=device, sam=sam, batch_size=batch_size)
