"""Classification clues: a classifier trained on the tags, its class maps, and their peaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weaksam.artifacts import Store, stage_fingerprint, store_folder
from weaksam.config import Settings, UserError
from weaksam.data.dataset import Dataset
from weaksam.data.images import read_image
from weaksam.engine.context import RunContext
from weaksam.engine.photo_features import input_photo, tags_matrix
from weaksam.engine.progress import progress
from weaksam.engine.weights import save_weights
from weaksam.models.backbones import FeatureExtractor, backbone_fingerprint, build_features
from weaksam.models.cam import TagClassifier, min_max, train_tag_classifier
from weaksam.models.peaks import find_peaks

COLUMNS = {
    "labels": "ints",
    "class_scores": "floats",
    "maps": "floats",
    "map_size": "ints",
    "points": "floats",
    "point_labels": "ints",
    "point_scores": "floats",
}
_DEEPEST = {"mobilenet_v2": "head"}
"""Feature map that a backbone's own classifier pools; ``last`` where it is not named."""


class ClueSettings(Settings):
    """How the tag classifier looks at photos and which peaks of its maps become points."""

    long_side: int = Field(448, ge=64, le=4096, description="longer side of the classifier's input, pixels")
    flip: bool = Field(True, description="average the maps of the photo and of its mirror image")
    weight_decay: float = Field(0.01, gt=0, description="L2 penalty of the tag classifier")
    peak_kernel: int = Field(17, ge=3, description="window of a peak, input pixels, odd; 17 as published")
    min_peak: float = Field(0.9, ge=0, le=1, description="least height of a peak on the map stretched to 0..1")
    max_peaks: int = Field(25, ge=1, description="most peaks of a class in a photo")
    min_score: float = Field(0.5, ge=0, le=1, description="least class probability for a photo without tags")


def class_peaks(
    maps: Tensor, labels: Tensor, frame: tuple[int, int], size: tuple[int, int], settings: ClueSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Peaks of the maps ``(L, h, w)`` of classes ``labels`` (L,): points, their labels and heights.

    Each map is resized to the input ``frame`` (H', W'), negative values cut to 0, stretched to [0, 1] and searched;
    points ``(P, 2)`` xy are then scaled to a photo of ``size`` (H, W), at pixel centres. No class: no point.
    """
    points, owners, heights = [torch.zeros(0, 2)], [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
    for class_map, label in zip(maps, labels, strict=True):
        large = F.interpolate(class_map[None, None].relu(), size=frame, mode="bilinear", align_corners=False)[0, 0]
        large = min_max(large)
        found = find_peaks(
            large, kernel=settings.peak_kernel, min_value=settings.min_peak, max_peaks=settings.max_peaks
        )
        heights.append(large[found[:, 1], found[:, 0]])
        points.append((found + 0.5) * torch.tensor([size[1] / frame[1], size[0] / frame[0]]))
        owners.append(label.repeat(len(found)))
    return torch.cat(points), torch.cat(owners), torch.cat(heights)


def classes_to_map(scores: Tensor, tags: tuple[int, ...], min_score: float) -> Tensor:
    """Labels ``(L,)`` whose maps are wanted: the tags, or without tags the classes scoring at least ``min_score``."""
    if tags:
        return torch.tensor(tags, dtype=torch.int64)
    return (scores >= min_score).nonzero()[:, 0]


def clue_points(store: Store) -> Callable[[str], tuple[Tensor, Tensor]]:
    """``image_id -> (points (P, 2) xy in photo pixels, labels (P,))`` from a sealed clue store."""

    def points_of(image_id: str) -> tuple[Tensor, Tensor]:
        row = store[image_id]
        return row["points"].reshape(-1, 2), row["point_labels"]

    return points_of


def class_maps(store: Store) -> Callable[[str], tuple[Tensor, Tensor]]:
    """``image_id -> (labels (L,), maps (L, h, w))`` from a sealed clue store."""

    def maps_of(image_id: str) -> tuple[Tensor, Tensor]:
        row = store[image_id]
        return row["labels"], row["maps"].reshape(len(row["labels"]), *row["map_size"].tolist())

    return maps_of


_KEPT_BYTES = 3 * 2**29
"""Room for the maps that are kept between the two looks at a photo."""


class Look(NamedTuple):
    """Maps ``(D, h, w)`` float16 of a photo and its mirror image (turned back), the input's and the photo's (H, W)."""

    maps: tuple[Tensor, ...]
    frame: tuple[int, int]
    size: tuple[int, int]


class _Looker:
    """The frozen backbone's deepest map of a photo, averaged over the mirror image where asked."""

    def __init__(self, context: RunContext, settings: ClueSettings) -> None:
        self.room = _KEPT_BYTES
        self.name = _DEEPEST.get(context.backbone.name, "last")
        self.network: FeatureExtractor = build_features(context.backbone, maps=(self.name,)).to(context.device)
        self.device, self.settings = context.device, settings
        self.kept: dict[str, Look] = {}

    def features(self, dataset: Dataset, image_id: str) -> Look:
        """Look at one photo; the first look is kept for the second where memory allows it."""
        key = dataset.by_id[image_id].sha256 or image_id
        if key in self.kept:
            return self.kept.pop(key)
        look = self._look(dataset, image_id)
        size = sum(one.numel() * one.element_size() for one in look.maps)
        if size <= self.room:
            self.room -= size
            self.kept[key] = look
        return look

    @torch.inference_mode()
    def _look(self, dataset: Dataset, image_id: str) -> Look:
        image = read_image(dataset.by_id[image_id].path)
        pixels = input_photo(image, self.settings.long_side).to(self.device)
        views = torch.cat([pixels, pixels.flip(3)]) if self.settings.flip else pixels
        found = self.network(views.to(memory_format=torch.channels_last))[self.name].float().cpu()
        maps = [found[0], *(view.flip(2) for view in found[1:])]
        halves = tuple(one.half() for one in maps)
        return Look(halves, (pixels.shape[2], pixels.shape[3]), (image.shape[0], image.shape[1]))


def pool(views: tuple[Tensor, ...]) -> Tensor:
    """Mean of each view's map over its positions: ``(views, D)``."""
    return torch.stack([view.float().mean(dim=(1, 2)) for view in views])


def fit_classifier(looker: _Looker, dataset: Dataset, settings: ClueSettings) -> TagClassifier:
    """Train on the pooled features of every photo and its mirror image against the tags.

    Raises:
        UserError: no photo has a tag.
    """
    tags = tags_matrix(dataset)
    if not bool(tags.any()):
        raise UserError("wanted at least one tagged training photo to learn from, found none: check data.train.tags")
    pooled = []
    for image_id in progress(dataset.image_ids, len(dataset), "clues: reading photos"):
        pooled.append(pool(looker.features(dataset, image_id).maps))
    views = pooled[0].shape[0]
    return train_tag_classifier(
        torch.cat(pooled), tags.repeat_interleave(views, dim=0), weight_decay=settings.weight_decay
    )


def run(context: RunContext, settings: ClueSettings, dataset: Dataset, split: str) -> Store:
    """Train the classifier on ``context.train`` and write maps and peaks of every photo of ``dataset``; sealed.

    Columns: ``labels`` (L,) of the mapped classes, ``class_scores`` (C,) probabilities, ``maps`` flattened
    (L, h, w) with ``map_size`` [h, w], ``points`` flattened (P, 2) xy in photo pixels, ``point_labels`` and
    ``point_scores`` (P,). A photo without tags gets the classes it scores at least ``min_score`` for.
    """
    inputs = {
        "train": context.train.fingerprint,
        "dataset": dataset.fingerprint,
        "backbone": backbone_fingerprint(context.backbone),
    }
    fingerprint = stage_fingerprint("clues", settings, inputs)
    folder = store_folder(context.out, "clues", split, fingerprint)
    store = Store(folder, stage="clues", fingerprint=fingerprint, image_ids=dataset.image_ids, columns=COLUMNS)
    if store.sealed:
        return store
    looker = _Looker(context, settings)
    classifier = fit_classifier(looker, context.train, settings)
    save_weights(folder / "classifier.safetensors", classifier.state(), {"fingerprint": fingerprint})

    def row(image_id: str) -> dict[str, Any]:
        views, frame, size = looker.features(dataset, image_id)
        scores = classifier.logits(pool(views)).mean(dim=0).sigmoid()
        labels = classes_to_map(scores, dataset.by_id[image_id].tags, settings.min_score)
        maps = torch.stack([classifier.class_maps(view.float())[labels] for view in views]).mean(dim=0)  # (L, h, w)
        points, point_labels, heights = class_peaks(maps, labels, frame, size, settings)
        return {
            "labels": labels,
            "class_scores": scores,
            "maps": maps.flatten(),
            "map_size": torch.tensor(maps.shape[1:]),
            "points": points.flatten(),
            "point_labels": point_labels,
            "point_scores": heights,
        }

    return store.fill(row, progress=f"clues ({split})")
