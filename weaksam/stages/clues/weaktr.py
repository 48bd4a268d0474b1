"""Map classes with WeakTr, a vision transformer: coarse, fine and cross-attention maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from weaksam.config import UserError
from weaksam.data.sample_photos import read_photo
from weaksam.engine.context import RunContext
from weaksam.models.backbones.colours import IMAGENET
from weaksam.models.backbones.inputs import normalise
from weaksam.models.weaktr.build import build_weaktr
from weaksam.models.weaktr.checkpoints import weaktr_fingerprint
from weaksam.models.weaktr.network import WeakTr
from weaksam.stages.clues.maps import ClassMaps, both_views, scaled_size, shrunk_size, views_mean
from weaksam.stages.clues.settings import ClueSettings
from weaksam.stages.clues.source import classes_to_map
from weaksam.stages.clues.weaktr_training import train_weaktr, weaktr_training_fingerprint
from weaksam.structures.clue_points import COARSE, CROSS, FINE, KINDS
from weaksam.structures.dataset import Dataset
from weaksam.structures.devices import moved_together


class WeakTrSource:
    """A vision transformer with a token per class, as its checkpoint is or trained on the tags of the run."""

    def __init__(self, context: RunContext, settings: ClueSettings, dataset: Dataset) -> None:
        """``dataset``: the photos whose classes will be mapped."""
        self.context, self.settings, self.dataset = context, settings, dataset
        self.wanted_kinds = tuple(number for name, number in KINDS.items() if name in settings.kinds)

    @property
    def inputs(self) -> dict[str, str]:
        """The transformer's weights and, where it is trained, all that decides the training."""
        weaktr, training, context = self.settings.weaktr, self.settings.weaktr_training, self.context
        if training.num_epochs == 0:
            return {"weaktr": weaktr_fingerprint(weaktr)}
        return {"weaktr": weaktr_training_fingerprint(context.train, weaktr, training, context.seed)}

    def held_out_tag_ap(self) -> Tensor | None:
        """Not known: the transformer learnt from all photos."""
        return None

    def prepare(self, folder: Path, fingerprint: str) -> None:
        """Train the network on the tags, or take it as it is where ``weaktr_training.num_epochs`` is 0."""
        context, training = self.context, self.settings.weaktr_training
        # Photos and settings that cannot work are refused before the training, not after it
        self._check(build_weaktr(self.settings.weaktr, len(context.train.classes)))
        self.model = train_weaktr(
            context.train,
            self.settings.weaktr,
            training,
            out=context.out,
            seed=context.seed,
            device=context.device,
            log=context.log,
        ).requires_grad_(False)

    def _check(self, model: WeakTr) -> None:
        """`UserError` for tagged photos that are too small and blocks that are not there."""
        depth, (first, last) = model.shape.depth, self.settings.cross_layers
        if CROSS in self.wanted_kinds and first > depth:
            raise UserError(
                f"wanted cross-attention of the blocks {first} to {last}, found a network of {depth} blocks: set "
                f"clues.cross_layers to numbers from 1 to {depth}"
            )
        for sample in self.dataset:
            # One without tags is only enlarged: a test photo can hardly be left out
            if sample.tags and min(sample.size) < model.patch_size:
                raise UserError(
                    f"wanted photos of at least one patch, {model.patch_size} x {model.patch_size} pixels, found "
                    f"{sample.image_id} of {sample.size[1]} x {sample.size[0]}: leave it out, or enlarge it"
                )

    @torch.inference_mode()
    def map_classes(self, dataset: Dataset, image_id: str) -> ClassMaps:
        """Maps of the photo at every scale, with its mirror image in the same forward pass."""
        sample = dataset.by_id[image_id]
        image = read_photo(sample)
        size = (image.shape[0], image.shape[1])
        frame = shrunk_size(size, self.settings.max_side)
        view_sizes = [scaled_size(frame, scale, self.model.patch_size) for scale in self.settings.view_scales]
        outputs = [self._map_view(image, view_size) for view_size in view_sizes]
        scores = torch.stack([logits for logits, _ in outputs]).mean(dim=0).sigmoid()
        labels = classes_to_map(scores, sample.tags, self.settings.class_threshold)
        kinds = {kind: tuple(maps[kind][:, labels] for _, maps in outputs) for kind in self.wanted_kinds}
        return ClassMaps(labels, scores, kinds, frame, size)

    def _map_view(self, image: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits ``(C,)`` of the class tokens and maps ``(N, C, h, w)`` by kind, of the photo resized to ``size``."""
        pixels = view_of(image, size).to(self.context.device)
        output = self.model(both_views(pixels) if self.settings.flip else pixels)
        maps = {}
        if COARSE in self.wanted_kinds:
            maps[COARSE] = views_mean(output.coarse)[None]
        if FINE in self.wanted_kinds:
            maps[FINE] = views_mean(output.fine)[None]
        if CROSS in self.wanted_kinds:
            first, last = self.settings.cross_layers
            maps[CROSS] = views_mean(output.head_cross[:, first - 1 : last].flatten(1, 2))
        logits, *there = moved_together([output.class_logits.mean(dim=0), *maps.values()], torch.device("cpu"))
        return logits, dict(zip(maps, there, strict=True))


def view_of(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """A photo, uint8 ``(H, W, 3)``, resized (bicubic) to ``size`` (H', W') and normalised: ``(1, 3, H', W')``."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    view = TF.resize(pixels, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return normalise(view, IMAGENET)[None]
