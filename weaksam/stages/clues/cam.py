"""The CNN source: a classifier trained on the tags over frozen features, and its class activation maps."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.data.images import read_image
from weaksam.data.tag_signal import check_tags
from weaksam.engine.context import RunContext
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.inputs import input_photo
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.models.cam.classifier import TagClassifier, train_tag_classifier
from weaksam.models.cam.network import CamNetwork, network_fingerprint
from weaksam.models.cam.tag_network import soft_maximum
from weaksam.stages.clues.backbone_training import adapted_backbone, deepest_map, tag_network_file
from weaksam.stages.clues.maps import ClassMaps, both_views
from weaksam.stages.clues.settings import ClueSettings
from weaksam.stages.clues.source import classes_to_map
from weaksam.store.progress import progress
from weaksam.store.weights import load_state, save_weights
from weaksam.structures.clue_points import COARSE
from weaksam.structures.dataset import Dataset

_KEPT_BYTES = 3 * 2**29
"""Room for the maps that are kept between the two looks at a photo."""


class Look(NamedTuple):
    """The deepest maps of a photo: for each scale those of its views ``(D, h, w)`` float16, a mirrored one turned back.

    ``frame`` is the (H, W) of the first input, ``size`` that of the photo.
    """

    maps: tuple[tuple[Tensor, ...], ...]
    frame: tuple[int, int]
    size: tuple[int, int]


class CamSource:
    """Class activation maps of a CNN: the run's backbone, or another of torchvision's classification networks."""

    def __init__(self, context: RunContext, settings: ClueSettings) -> None:
        self.context, self.settings = context, settings

    @property
    def inputs(self) -> dict[str, str]:
        """The training photos and tags, the network's weights, and the seed where the network itself is trained."""
        if self.settings.network is not None:
            weights = network_fingerprint(self.settings.network, self.settings.network_weights)
        else:
            weights = backbone_fingerprint(self.context.backbone)
        seed = {"seed": str(self.context.seed)} if self.settings.finetune_epochs else {}
        return {"train": self.context.train.fingerprint, "backbone": weights} | seed

    def prepare(self, folder: Path, fingerprint: str) -> None:
        """Train the classifier, after the backbone where the settings say so; it is written to ``folder``."""
        if not any(sample.tags for sample in self.context.train):
            raise UserError(
                "wanted at least one tagged training photo to learn from, found none: check data.train.tags"
            )
        check_tags(self.context.train)
        backbone = adapted_backbone(self.context, self.settings)
        self.adapted = backbone.adapted is not None
        if self.settings.network is not None:
            network: nn.Module = CamNetwork(self.settings.network, self.settings.network_weights)
            name = "cam"
        else:
            name = deepest_map(backbone)
            network = build_features(backbone, maps=(name,))
        self.looker = Looker(network, name, self.context.device, self.settings)
        if backbone.adapted is not None:
            self.classifier = classifier_of(load_state(tag_network_file(backbone.adapted), "the tag network"))
        else:
            self.classifier = fit_classifier(self.looker, self.context.train, self.settings)
        save_weights(folder / "classifier.safetensors", self.classifier.state(), {"fingerprint": fingerprint})

    def look(self, dataset: Dataset, image_id: str) -> ClassMaps:
        """Coarse maps of the photo: the classifier at every position."""
        scales, frame, size = self.looker.look(dataset, image_id)
        maps, logits = [], []
        for views in scales:
            every = torch.stack([self.classifier.class_maps(view.float()) for view in views])  # (V, C, h, w)
            if self.adapted:
                every = every + self.classifier.bias[:, None, None]
                logits.append(soft_maximum(every, self.settings.pool_sharpness))
            else:
                logits.append(self.classifier.logits(pool(views)))
            maps.append(every.mean(dim=0))
        scores = torch.cat(logits).mean(dim=0).sigmoid()
        labels = classes_to_map(scores, dataset.by_id[image_id].tags, self.settings.least_score)
        return ClassMaps(labels, scores, {COARSE: tuple(one[labels][None] for one in maps)}, frame, size)


class Looker:
    """The frozen network's deepest maps of a photo and, where asked, of its mirror image."""

    def __init__(self, network: nn.Module, name: str, device: torch.device, settings: ClueSettings) -> None:
        """``network`` gives maps by name, of which ``name`` is read."""
        self.network, self.name = network.to(device), name
        self.device, self.settings, self.room = device, settings, _KEPT_BYTES
        self.kept: dict[str, Look] = {}

    def look(self, dataset: Dataset, image_id: str) -> Look:
        """Look at one photo; the first look is kept for the second where memory allows it."""
        key = dataset.by_id[image_id].sha256 or image_id
        if key in self.kept:
            return self.kept.pop(key)
        look = self._look(dataset, image_id)
        size = sum(view.numel() * view.element_size() for views in look.maps for view in views)
        if size <= self.room:
            self.room -= size
            self.kept[key] = look
        return look

    @torch.inference_mode()
    def _look(self, dataset: Dataset, image_id: str) -> Look:
        image = read_image(dataset.by_id[image_id].path)
        inputs = [input_photo(image, round(self.settings.long_side * scale)) for scale in self.settings.views]
        maps = []
        for pixels in inputs:
            views = (both_views(pixels) if self.settings.flip else pixels).to(self.device)
            found = self.network(views.to(memory_format=torch.channels_last))[self.name].float().cpu()
            maps.append(tuple(one.half() for one in (found[0], *(view.flip(2) for view in found[1:]))))
        return Look(tuple(maps), (inputs[0].shape[2], inputs[0].shape[3]), (image.shape[0], image.shape[1]))


def pool(views: tuple[Tensor, ...]) -> Tensor:
    """Mean of each view's map over its positions: ``(V, D)``."""
    return torch.stack([view.float().mean(dim=(1, 2)) for view in views])


def fit_classifier(looker: Looker, dataset: Dataset, settings: ClueSettings) -> TagClassifier:
    """Train on the pooled features of every view of every photo against the tags."""
    pooled = []
    for image_id in progress(dataset.image_ids, len(dataset), "clues: reading photos"):
        pooled.append(torch.cat([pool(views) for views in looker.look(dataset, image_id).maps]))
    tags = dataset.tag_matrix().repeat_interleave(pooled[0].shape[0], dim=0)
    return train_tag_classifier(torch.cat(pooled), tags, weight_decay=settings.weight_decay)


def classifier_of(state: dict[str, Tensor]) -> TagClassifier:
    """The classifier inside a trained tag network's weights; its features are not standardised."""
    weight = state["head.weight"][:, :, 0, 0]
    return TagClassifier(weight, state["head.bias"], torch.zeros(weight.shape[1]), torch.ones(weight.shape[1]))
