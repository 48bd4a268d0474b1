"""Classification clues: a classifier trained on the tags, its class maps, and their peaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weaksam.artifacts import Store, stage_fingerprint, store_folder
from weaksam.config import Settings, UserError
from weaksam.data.dataset import Dataset, Sample
from weaksam.data.images import read_image
from weaksam.engine.context import RunContext
from weaksam.engine.photo_features import input_photo, tags_matrix
from weaksam.engine.progress import progress
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training import fit, warmup_cosine
from weaksam.engine.weights import load_state, save_weights
from weaksam.models.backbones import BackboneSettings, FeatureExtractor, backbone_fingerprint, build_features
from weaksam.models.cam import TagClassifier, min_max, train_tag_classifier
from weaksam.models.peaks import find_peaks
from weaksam.models.tag_network import TagNetwork, soft_maximum, tag_loss, vary_view
from weaksam.sam.prompts import COARSE, CluePoints

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
    finetune_epochs: int = Field(0, ge=0, description="passes that train the backbone itself on the tags; 0 freezes it")
    finetune_lr: float = Field(5e-4, gt=0, description="peak learning rate of the backbone, 20 times that for the head")
    finetune_batch: int = Field(8, ge=1, description="photos per step of that training")
    pool_sharpness: float = Field(1.0, gt=0, description="soft maximum that pools class maps in that training")
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


def clue_points(store: Store) -> Callable[[str], CluePoints]:
    """``image_id`` -> the clue points of a sealed clue store: peaks of the classifier's own maps, so all coarse."""

    def points_of(image_id: str) -> CluePoints:
        row = store[image_id]
        return CluePoints.of(row["points"].reshape(-1, 2), row["point_labels"], COARSE)

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
        """``context.backbone`` is what looks, adapted to the tags or not."""
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


def classifier_of(state: dict[str, Tensor]) -> TagClassifier:
    """The classifier inside a trained tag network's weights; its features are not standardised."""
    weight = state["head.weight"][:, :, 0, 0]
    return TagClassifier(weight, state["head.bias"], torch.zeros(weight.shape[1]), torch.ones(weight.shape[1]))


def adapted_backbone(context: RunContext, settings: ClueSettings) -> BackboneSettings:
    """The backbone all later stages start from: trained on the tags if ``finetune_epochs`` says so, else as it is.

    The training is sealed and resumes like every other; the second call only finds it. Useful where no ImageNet
    weights fit the photos; with them, freezing is faster (which is better there was not measured).
    """
    if settings.finetune_epochs == 0:
        return context.backbone
    inputs = {
        "train": context.train.fingerprint,
        "backbone": backbone_fingerprint(context.backbone),
        "seed": str(context.seed),
    }
    fingerprint = stage_fingerprint("tag network", settings, inputs)
    folder = store_folder(context.out, "clues", "backbone", fingerprint)
    adapted = folder / "backbone.safetensors"
    if not adapted.is_file():
        network = _train_tag_network(context, settings, folder, fingerprint)
        save_weights(adapted, network.features.state_dict(), {"fingerprint": fingerprint})
    return context.backbone.model_copy(update={"adapted": adapted})


def _tag_network_file(adapted: Path) -> Path:
    """The whole tag network's weights, beside those of its backbone."""
    return adapted.with_name("weights.safetensors")


def _train_tag_network(context: RunContext, settings: ClueSettings, folder: Path, fingerprint: str) -> TagNetwork:
    """Train backbone and classifier on the tags of the training photos."""
    seed_everything(derive_seed(context.seed, "tag network"))
    name = _DEEPEST.get(context.backbone.name, "last")
    features = build_features(context.backbone, maps=(name,), frozen=False)
    network = TagNetwork(features, name, len(context.train.classes), settings.pool_sharpness).to(context.device)
    tags = tags_matrix(context.train)
    samples = list(context.train)

    def batches(epoch: int) -> Iterator[TagBatch]:
        for chunk in torch.randperm(len(samples)).split(settings.finetune_batch):
            yield TagBatch(tuple(samples[i] for i in chunk.tolist()), tags[chunk])

    photos: dict[str, Tensor] = {}

    def losses(batch: TagBatch) -> dict[str, Tensor]:
        shown = []
        for sample in batch.samples:
            if sample.image_id not in photos:
                photos[sample.image_id] = input_photo(read_image(sample.path), settings.long_side)[0].half()
            shown.append(vary_view(photos[sample.image_id].float()))
        groups = _by_shape(shown)
        total = torch.zeros((), device=context.device)
        for group in groups:
            images, wanted = torch.stack([shown[i] for i in group]), batch.tags[group]
            total = total + len(group) * tag_loss(network(images.to(context.device)), wanted.to(context.device))
        return {"tags": total / len(batch.samples)}

    optimizer = torch.optim.AdamW(
        [
            {"params": network.features.parameters(), "lr": settings.finetune_lr},
            {"params": network.head.parameters(), "lr": 20 * settings.finetune_lr},
        ],
        weight_decay=0.02,
    )
    fit(
        network,
        losses,
        batches,
        optimizer,
        num_epochs=settings.finetune_epochs,
        num_steps_per_epoch=-(-len(samples) // settings.finetune_batch),
        lr_factor=lambda step, total: warmup_cosine(step, total, min(50, total // 4)),
        folder=folder,
        fingerprint=fingerprint,
        seed=context.seed,
        label="tag network",
        log=context.log,
    )
    return network


class TagBatch(NamedTuple):
    """Photos of one step and their tags ``(B, C)``."""

    samples: tuple[Sample, ...]
    tags: Tensor

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the photos, for messages."""
        return tuple(sample.image_id for sample in self.samples)


def _by_shape(images: list[Tensor]) -> list[list[int]]:
    """Places of the images of each shape, so that equal ones go through the network together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(place)
    return list(groups.values())


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
    } | ({"seed": str(context.seed)} if settings.finetune_epochs else {})
    fingerprint = stage_fingerprint("clues", settings, inputs)
    folder = store_folder(context.out, "clues", split, fingerprint)
    store = Store(folder, stage="clues", fingerprint=fingerprint, image_ids=dataset.image_ids, columns=COLUMNS)
    if store.sealed:
        return store
    context = replace(context, backbone=adapted_backbone(context, settings))
    looker = _Looker(context, settings)
    if context.backbone.adapted is not None:
        classifier = classifier_of(load_state(_tag_network_file(context.backbone.adapted), "the tag network"))
    else:
        classifier = fit_classifier(looker, context.train, settings)
    save_weights(folder / "classifier.safetensors", classifier.state(), {"fingerprint": fingerprint})

    def row(image_id: str) -> dict[str, Any]:
        views, frame, size = looker.features(dataset, image_id)
        every = torch.stack([classifier.class_maps(view.float()) for view in views])  # (views, C, h, w)
        logits = classifier.logits(pool(views))
        if context.backbone.adapted is not None:
            every = every + classifier.bias[:, None, None]
            logits = soft_maximum(every, settings.pool_sharpness)
        scores = logits.mean(dim=0).sigmoid()
        labels = classes_to_map(scores, dataset.by_id[image_id].tags, settings.min_score)
        maps = every.mean(dim=0)[labels]  # (L, h, w)
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
