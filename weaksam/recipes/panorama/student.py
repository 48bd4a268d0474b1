"""Train the student on whole panoramas and windows, after the assistant or with it in turn (GoodSAM-style MKA)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.engine.seeds import derive_seed
from weaksam.models.backbones.shared_batch_norm import each_photo_apart
from weaksam.models.ranks import ranks
from weaksam.models.semantic.network import STRIDE, VARIANTS, SemanticNetwork, build_segformer, read_semantic
from weaksam.recipes.panorama.assistant import drawn_batches, stitched_logits
from weaksam.recipes.panorama.distillation import FeatureProjections, feature_loss, label_loss, logit_loss
from weaksam.recipes.panorama.fusion import Fusion
from weaksam.recipes.panorama.photos import SemanticPhotos
from weaksam.recipes.panorama.pseudo_maps import ensemble_on_grid, from_row, fused
from weaksam.recipes.panorama.settings import PanoramaSettings, StudentSettings
from weaksam.recipes.panorama.windows import WindowMasks, enlarged
from weaksam.store.store import Store
from weaksam.structures.panorama_windows import crops_at

STUDENT = "panorama student"


class StudentTargets(Protocol):
    """What a panorama teaches the student."""

    def of(self, row: int) -> tuple[Tensor, Tensor | None]:
        """Labels int64 ``(H, W)`` and logits ``(C, H / 4, W / 4)`` of panorama ``row``; None without logits."""
        ...


class TrueTargets:
    """The class maps of the panoramas: the upper bound."""

    def __init__(self, photos: SemanticPhotos) -> None:
        self.photos = photos

    def of(self, row: int) -> tuple[Tensor, None]:
        """See `StudentTargets`."""
        return self.photos.labels_at(row), None


class AssistantTargets:
    """The assistant's own labels and logits, or with ``store`` the pseudo maps and ensemble logits made of them.

    The assistant does not change: its logits stay, as far as ``max_cache_gib`` allows.
    """

    def __init__(
        self, network: SemanticNetwork, photos: SemanticPhotos, settings: PanoramaSettings, store: Store | None
    ) -> None:
        self.network, self.photos, self.settings, self.store = network, photos, settings, store
        self._kept: dict[int, Tensor] = {}
        self._bytes_left = settings.student.max_cache_gib * 2**30

    def of(self, row: int) -> tuple[Tensor, Tensor]:
        """See `StudentTargets`."""
        logits, size = self._logits(row), self.photos.size(row)
        if self.store is None:
            return enlarged(logits[None], size)[0].argmax(dim=0), logits
        fusion = from_row(self.store[self.photos.dataset.samples[row].image_id], size)
        return fusion.labels, ensemble_on_grid(logits, fusion)

    def _logits(self, row: int) -> Tensor:
        if row in self._kept:
            return self._kept[row].to(self.network.mean.device)
        logits = stitched_logits(self.network.eval(), self.photos.pixels(row), self.settings.windows.windows)
        if logits.numel() * logits.element_size() <= self._bytes_left:
            self._bytes_left -= logits.numel() * logits.element_size()
            self._kept[row] = logits.cpu()
        return logits


class MomentaryTargets:
    """Pseudo maps and ensemble logits of an assistant that is being trained, made anew each time."""

    def __init__(self, network: SemanticNetwork, masks: WindowMasks, settings: PanoramaSettings) -> None:
        self.network, self.masks, self.settings = network, masks, settings

    def of(self, row: int) -> tuple[Tensor, Tensor]:
        """See `StudentTargets`."""
        training = self.network.training
        self.network.eval()
        logits = stitched_logits(self.network, self.masks.photos.pixels(row), self.masks.windows)
        fusion: Fusion = fused(self.network, self.masks, row, self.settings.fusion)
        self.network.train(training)
        return fusion.labels, ensemble_on_grid(logits, fusion)


@dataclass(frozen=True)
class PanoramaBatch:
    """Panoramas of a step by their rows."""

    image_ids: tuple[str, ...]
    rows: tuple[int, ...]
    epoch: int
    counts: bool = True
    """Whether they are part of the step, see `Ranks.share`."""


class Distillation(nn.Module):
    """The student with the projections of its features, and its losses.

    The student is ``start``, if given. Raises `UserError` where the assistant has no features
    by stage to learn, and for a student of other classes.
    """

    def __init__(
        self,
        settings: PanoramaSettings,
        photos: SemanticPhotos,
        assistant: SemanticNetwork | None,
        targets: StudentTargets,
        start: SemanticNetwork | None = None,
    ) -> None:
        super().__init__()
        of, seed = settings.student, derive_seed(settings.seed, STUDENT)
        self.student = build_student(of, photos.classes, seed) if start is None else start
        self._others = (photos, assistant, targets)  # in a tuple, so that they are no parts of this module
        self.settings = settings
        self.projections = FeatureProjections([], [])
        if assistant is not None and of.feature_weight and of.windows:
            narrow, wide = self.student.feature_channels(), assistant.feature_channels()
            if len(narrow) != len(wide):
                raise UserError(
                    f"wanted an assistant with features of {len(narrow)} stages as SegFormer has, found {len(wide)} in "
                    f"{assistant.name}: set student.feature_weight=0"
                )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.projections = FeatureProjections(narrow, wide)

    @property
    def batches_per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self._others[0]) // self.settings.student.batch_size)

    def batches(self, epoch: int) -> Iterator[PanoramaBatch]:
        """This process's part of the batches of an epoch: every panorama once, in a drawn order."""
        photos, seed = self._others[0], derive_seed(self.settings.seed, STUDENT, epoch)
        for of_all in drawn_batches(len(photos), self.settings.student.batch_size, seed):
            rows, counts = ranks().share(of_all)
            image_ids = tuple(photos.dataset.samples[row].image_id for row in rows)
            yield PanoramaBatch(image_ids, tuple(rows), epoch, counts)

    def losses(self, batch: PanoramaBatch) -> dict[str, Tensor]:
        """The weighted losses of a batch by their names: means over the panoramas of all processes."""
        total: dict[str, list[Tensor]] = {}
        num, several = max(1, ranks().total(len(batch.rows))), ranks().size > 1
        with each_photo_apart(self.student):
            for row in batch.rows:
                for name, value in self._of_panorama(row, batch.epoch, several).items():
                    total.setdefault(name, []).append(value)
        return {name: torch.stack(values).sum() / num for name, values in total.items()}

    def _of_panorama(self, row: int, epoch: int, several: bool) -> dict[str, Tensor]:
        """The losses of one panorama, turned and mirrored, and of windows of it, as (seed, image id, epoch) draw.

        With ``several`` processes they draw dropout too: only the first one's global random numbers are saved.
        """
        photos, _, targets = self._others
        image_id = photos.dataset.samples[row].image_id
        seed = derive_seed(self.settings.seed, STUDENT, image_id, epoch)
        generator = torch.Generator().manual_seed(seed)
        pixels, (labels, logits) = photos.pixels(row), targets.of(row)
        turn = int(torch.randint(pixels.shape[2] // STRIDE, (1,), generator=generator))
        mirrored = bool(torch.rand(1, generator=generator) < 0.5)
        device = self.student.mean.device
        if several:
            torch.manual_seed(seed)
        shown = turned(pixels, turn * STRIDE, mirrored).to(device)
        seen = self.student(shown[None]).logits
        wanted = turned(labels, turn * STRIDE, mirrored).to(device)
        terms = {"labels": [label_loss(enlarged(seen, wanted.shape[-2:]), wanted[None])], "logits": [], "features": []}
        if logits is not None and self.settings.student.logit_weight:
            terms["logits"].append(logit_loss(seen, turned(logits, turn, mirrored)[None]))
        if self.settings.student.windows:
            self._add_windows(terms, pixels, labels, generator)
        weights = {"labels": 1.0, "logits": self.settings.student.logit_weight}
        weights["features"] = self.settings.student.feature_weight
        return {name: weights[name] * torch.stack(values).mean() for name, values in terms.items() if values}

    def _add_windows(
        self, terms: dict[str, list[Tensor]], pixels: Tensor, labels: Tensor, generator: torch.Generator
    ) -> None:
        """Add the terms of drawn windows of a panorama to ``terms``."""
        of, device = self.settings.student, self.student.mean.device
        size = (pixels.shape[1], pixels.shape[2])
        windows, (_, assistant, targets) = self.settings.windows.windows, self._others
        every, window = windows.offsets(size), windows.fitted(size)
        chosen = torch.randperm(len(every), generator=generator)[: of.windows].tolist()
        offsets = [every[number] for number in chosen]
        crops = crops_at(pixels, offsets, window).to(device)
        wanted = crops_at(labels[None], offsets, window)[:, 0].to(device)
        learns_features = len(self.projections.stages) > 0
        seen = self.student(crops, features=learns_features)
        terms["labels"].append(label_loss(enlarged(seen.logits, window), wanted))
        if assistant is None or isinstance(targets, TrueTargets) or not (of.logit_weight or learns_features):
            return
        training = assistant.training
        with torch.no_grad():
            taught = assistant.eval()(crops, features=learns_features)
        assistant.train(training)
        if of.logit_weight:
            terms["logits"].append(logit_loss(seen.logits, taught.logits))
        if learns_features:
            terms["features"].append(feature_loss(self.projections(seen.features), taught.features))


def build_student(settings: StudentSettings, classes: tuple[str, ...], seed: int) -> SemanticNetwork:
    """The student before its training; raises `UserError` where weights are no SegFormer's, or of other classes."""
    if settings.weights is None:
        return build_segformer(settings.variant, len(classes), seed)
    network = read_semantic(settings.weights, "student.weights")
    if not network.is_segformer:
        raise UserError(f"wanted a SegFormer as student.weights, found another network in {network.name}: give one")
    if network.num_classes != len(classes):
        raise UserError(
            f"wanted a student of {len(classes)} classes, found {network.num_classes} in {network.name}: give another, "
            "or set data.classes to fit"
        )
    return network


def check_start(settings: StudentSettings, assistant: SemanticNetwork) -> None:
    """`UserError` where the student is to start from an ``assistant`` of another variant."""
    if settings.start != "assistant":
        return
    wanted = VARIANTS[settings.variant]
    if not assistant.is_segformer or {key: assistant.architecture()[key] for key in wanted} != wanted:
        raise UserError(
            f"wanted an assistant of the student's variant for student.start=assistant, found {assistant.name} and "
            f"student.variant={settings.variant}: set both variants to one, or student.start=weights"
        )


def start_of(settings: StudentSettings, assistant: SemanticNetwork) -> SemanticNetwork | None:
    """A copy of the ``assistant``, its colours too, where the student starts from it (see `check_start`), else None."""
    return copy.deepcopy(assistant) if settings.start == "assistant" else None


def turned(values: Tensor, columns: int, mirrored: bool) -> Tensor:
    """A panorama or its labels ``(..., W)`` turned by ``columns`` to the right around the seam, and then mirrored."""
    rolled = values.roll(columns, -1)
    return rolled.flip(-1) if mirrored else rolled
