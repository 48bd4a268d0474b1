"""Map classes with a CNN: a classifier learns the tags on its features, and gives class activation maps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.data.sample_photos import reading_ahead
from weaksam.data.tag_signal import check_tags
from weaksam.engine.context import RunContext
from weaksam.engine.seeds import seed_everything
from weaksam.engine.training_state import load_sealed
from weaksam.evaluation.tag_ap import tag_average_precision
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import backbone_fingerprint, input_colours
from weaksam.models.cam.classifier import TagClassifier, train_tag_classifier
from weaksam.models.cam.network import CamNetwork, cam_network_colours, cam_network_fingerprint
from weaksam.models.cam.tag_network import soft_maximum
from weaksam.models.ranks import ranks
from weaksam.stages.clues.backbone_training import adapted_backbone, deepest_map, tag_network_file
from weaksam.stages.clues.cam_features import FeatureReader, pool_views
from weaksam.stages.clues.maps import ClassMaps
from weaksam.stages.clues.settings import ClueSettings
from weaksam.stages.clues.source import classes_to_map
from weaksam.store.progress import progress
from weaksam.store.weights import load_state, save_weights
from weaksam.structures.clue_points import COARSE
from weaksam.structures.dataset import Dataset


class CamSource:
    """Class activation maps of a CNN: the run's backbone, or another of torchvision's classification networks."""

    def __init__(self, context: RunContext, settings: ClueSettings) -> None:
        self.context, self.settings = context, settings

    @property
    def inputs(self) -> dict[str, str]:
        """The training photos and tags, the network's weights, and the seed where the network itself is trained."""
        if self.settings.network is not None:
            weights = cam_network_fingerprint(self.settings.network, self.settings.network_weights)
        else:
            weights = backbone_fingerprint(self.context.backbone)
        seed = {"seed": str(self.context.seed)} if self.settings.finetune_epochs else {}
        return {"train": self.context.train.fingerprint, "backbone": weights} | seed

    def prepare(self, folder: Path, fingerprint: str) -> None:
        """Load the classifier from ``folder``; where it is not there yet, train it, after the backbone if that is set.

        Raises:
            UserError: no training photo has a tag, or the tags teach nothing (`check_tags`).
        """
        if not any(sample.tags for sample in self.context.train):
            raise UserError(
                "wanted at least one tagged training photo to learn from, found none: check data.train.tags"
            )
        check_tags(self.context.train)
        backbone = adapted_backbone(self.context, self.settings)
        self.is_adapted = backbone.adapted is not None
        seed_everything(self.context.seed)  # a network without weights is the same one for every split
        if self.settings.network is not None:
            network: nn.Module = CamNetwork(self.settings.network, self.settings.network_weights)
            colours, map_name = cam_network_colours(self.settings.network), "cam"
        else:
            colours, map_name = input_colours(backbone), deepest_map(backbone)
            network = build_features(backbone, maps=(map_name,))
        self.features = FeatureReader(network, colours, map_name, self.context.device, self.settings)
        kept = folder / "classifier.safetensors"
        with ranks().first_before_others():
            if not kept.is_file():
                save_weights(kept, self._learnt_classifier(backbone).state(), {"fingerprint": fingerprint})
        self.classifier = TagClassifier(**load_state(kept, "the tag classifier"))

    def _learnt_classifier(self, backbone: BackboneSettings) -> TagClassifier:
        if backbone.adapted is not None:
            return trained_classifier(load_sealed(tag_network_file(backbone.adapted), "the tag network"))
        return train_classifier(self.features, self.context.train, self.settings)

    def held_out_tag_ap(self) -> Tensor | None:
        """Tag AP ``(C,)`` of two classifiers, each learnt on every second training photo, on the photos of the other.

        None where the backbone itself learnt the tags of all photos, and of fewer than two photos.
        """
        train = self.context.train
        if self.is_adapted or len(train) < 2:
            return None
        return held_out_tag_ap(self.features, train, self.settings)

    def map_classes(self, dataset: Dataset, image_id: str) -> ClassMaps:
        """Coarse maps of the photo: the classifier at every position, the mean over the views of each scale."""
        features = self.features.read(dataset, image_id)
        maps, logits = [], []
        for views in features.maps:
            view_maps = torch.stack([self.classifier.class_maps(view.float()) for view in views])  # (V, C, h, w)
            if self.is_adapted:
                view_maps = view_maps + self.classifier.bias[:, None, None]
                logits.append(soft_maximum(view_maps, self.settings.pool_sharpness))
            else:
                logits.append(self.classifier.logits(pool_views(views)))
            maps.append(view_maps.mean(dim=0))
        scores = torch.cat(logits).mean(dim=0).sigmoid()
        labels = classes_to_map(scores, dataset.by_id[image_id].tags, self.settings.class_threshold)
        kinds = {COARSE: tuple(class_maps[labels][None] for class_maps in maps)}
        return ClassMaps(labels, scores, kinds, features.frame, features.size)


def train_classifier(features: FeatureReader, dataset: Dataset, settings: ClueSettings) -> TagClassifier:
    """Train on the pooled features of every view of every photo against the tags."""
    pooled = []
    with reading_ahead(dataset.samples):
        for image_id in progress(dataset.image_ids, len(dataset), "clues: reading photos"):
            maps = features.read(dataset, image_id, again=True).maps
            pooled.append(torch.cat([pool_views(views) for views in maps]))
    tags = dataset.tag_matrix().repeat_interleave(pooled[0].shape[0], dim=0)
    return train_tag_classifier(torch.cat(pooled), tags, weight_decay=settings.weight_decay)


def held_out_tag_ap(features: FeatureReader, dataset: Dataset, settings: ClueSettings) -> Tensor:
    """Tag AP ``(C,)`` on photos that the classifier did not learn from: photos of even and of odd place in turn."""
    pooled = []
    for image_id in progress(dataset.image_ids, len(dataset), "clues: holding tags out"):
        pooled.append(pool_views(features.read(dataset, image_id).maps[0]).mean(dim=0))
    inputs, tags = torch.stack(pooled), dataset.tag_matrix()
    scores = torch.zeros_like(tags)
    for held_out in (torch.arange(len(tags)) % 2 == 0, torch.arange(len(tags)) % 2 == 1):
        learnt = train_tag_classifier(inputs[~held_out], tags[~held_out], weight_decay=settings.weight_decay)
        scores[held_out] = learnt.logits(inputs[held_out])
    return tag_average_precision(scores, tags)


def trained_classifier(state: dict[str, Tensor]) -> TagClassifier:
    """The classifier inside a trained tag network's weights; its features are not standardised."""
    weight = state["head.weight"][:, :, 0, 0]
    return TagClassifier(weight, state["head.bias"], torch.zeros(weight.shape[1]), torch.ones(weight.shape[1]))
