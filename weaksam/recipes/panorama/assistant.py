"""Train the assistant on pinhole photos, and rectify it on windows of panoramas without labels (GoodSAM-style DAR)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from weaksam.config import UserError, fingerprint_of
from weaksam.engine.log import RunLog
from weaksam.engine.schedules import warmup_cosine
from weaksam.engine.seeds import derive_seed
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.evaluation.class_maps import UNLABELLED
from weaksam.models.backbones.shared_batch_norm import each_photo_apart, share_batch_norm
from weaksam.models.ranks import ranks
from weaksam.models.semantic.network import STRIDE, SemanticNetwork, build_segformer, read_semantic
from weaksam.recipes.panorama.photos import SemanticPhotos
from weaksam.recipes.panorama.rectification import boundary_loss, consistency_loss, repaired_labels
from weaksam.recipes.panorama.settings import PanoramaSettings, TeachingSettings
from weaksam.recipes.panorama.windows import WindowMasks, enlarged
from weaksam.structures.panorama_windows import PanoramaWindows, crops_at, overlaps, stitch

ASSISTANT, RECTIFIED = "panorama assistant", "panorama rectification"
SCALES = (0.75, 1.5)
"""A photo of a step is scaled between these."""


def build_assistant(settings: PanoramaSettings, classes: Sequence[str], device: torch.device) -> SemanticNetwork:
    """The assistant before any training; raises `UserError` where its classes are not those of the labels."""
    of = settings.assistant
    if of.weights is None:
        network = build_segformer(of.variant, len(classes), derive_seed(settings.seed, ASSISTANT))
    else:
        network = read_semantic(of.weights, "assistant.weights")
    if network.num_classes != len(classes):
        raise UserError(
            f"wanted an assistant of the {len(classes)} classes of the labels, found {network.num_classes} in "
            f"{network.name}: set data.classes to the assistant's, or give one that was trained on these"
        )
    share_batch_norm(network)  # over the photos of a step, of which every process has a part
    return network.to(device)


@dataclass(frozen=True)
class PhotoBatch:
    """Pinhole photos of a step: pixels ``(n, 3, h, w)`` in 0 to 255, and their classes ``(n, h, w)``."""

    image_ids: tuple[str, ...]
    pixels: Tensor
    labels: Tensor
    draws: int
    """Seed of what the network draws on them, see `label_loss_of`."""
    counts: bool = True
    """Whether they are part of the step, see `Ranks.share`."""


class PhotoCrops:
    """Random crops of labelled pinhole photos of ``size``; all draws follow from (seed, image id, epoch)."""

    def __init__(self, photos: SemanticPhotos, size: tuple[int, int], batch_size: int, seed: int) -> None:
        self.photos, self.size, self.batch_size, self.seed = photos, size, batch_size, seed

    @property
    def batches_per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.photos) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[PhotoBatch]:
        """This process's part of the batches of an epoch: every photo once, in a drawn order."""
        for of_all in drawn_batches(len(self.photos), self.batch_size, derive_seed(self.seed, ASSISTANT, epoch)):
            rows, counts = ranks().share(of_all)
            pixels, labels = zip(*(self.crop(row, epoch) for row in rows), strict=True)
            image_ids = tuple(self.photos.dataset.samples[row].image_id for row in rows)
            draws = derive_seed(self.seed, ASSISTANT, "draws", epoch, *image_ids)
            yield PhotoBatch(image_ids, torch.stack(pixels), torch.stack(labels), draws, counts)

    def crop(self, row: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Photo ``row`` scaled, cut (or padded without a class), mirrored and lit as drawn, with its classes."""
        image_id = self.photos.dataset.samples[row].image_id
        generator = torch.Generator().manual_seed(derive_seed(self.seed, ASSISTANT, image_id, epoch))
        scale, down, across, mirrored, light, contrast = torch.rand(6, generator=generator).tolist()
        pixels, labels = self.photos.pixels(row), self.photos.labels_at(row)
        ratio = max(wanted / side for wanted, side in zip(self.size, labels.shape, strict=True))
        ratio *= SCALES[0] + (SCALES[1] - SCALES[0]) * scale
        size = [max(1, round(side * ratio)) for side in labels.shape]
        seen = TF.resize(pixels, size, antialias=True).float()
        classes = TF.resize(labels[None], size, interpolation=TF.InterpolationMode.NEAREST_EXACT)[0]
        missing = [max(0, wanted - side) for wanted, side in zip(self.size, size, strict=True)]
        seen = F.pad(seen, (0, missing[1], 0, missing[0]))
        classes = F.pad(classes, (0, missing[1], 0, missing[0]), value=UNLABELLED)
        top, left = (
            int(draw * (side - wanted + 1))
            for draw, side, wanted in zip((down, across), classes.shape, self.size, strict=True)
        )
        seen, classes = (part[..., top : top + self.size[0], left : left + self.size[1]] for part in (seen, classes))
        if mirrored < 0.5:
            seen, classes = seen.flip(-1), classes.flip(-1)
        seen = (seen - 128) * (0.8 + 0.4 * contrast) + 128 * (0.8 + 0.4 * light)
        return seen.clamp(0, 255), classes.contiguous()


def drawn_batches(num: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """The numbers below ``num`` in a drawn order, ``batch_size`` at a time."""
    order = torch.randperm(num, generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, num, batch_size):
        yield order[start : start + batch_size]


def label_loss_of(network: SemanticNetwork, batch: PhotoBatch) -> Tensor:
    """Cross-entropy of pinhole photos, a mean over the labelled pixels of all processes; 0 where none is labelled.

    Where several processes train, dropout follows from what each computes, not from what it computed before: only the
    first one's global random numbers are saved with a training.
    """
    device = network.mean.device
    if ranks().size > 1:
        torch.manual_seed(batch.draws)
    logits = enlarged(network(batch.pixels.to(device)).logits, (batch.labels.shape[1], batch.labels.shape[2]))
    labels = batch.labels.to(device)
    return boundary_loss(logits, labels, ranks().sum((labels != UNLABELLED).sum()))


def trained(
    network: nn.Module,
    settings: TeachingSettings,
    losses: Callable[[object], dict[str, Tensor]],
    batches: Callable[[int], Iterator[object]],
    num_batches: int,
    job: TrainingJob,
) -> None:
    """Train all of ``network`` with AdamW, or load what ``job`` holds; a killed training goes on to the same bytes."""
    fit(network, [objective(network, settings, losses)], batches, job, num_steps_per_epoch=num_batches)


def objective(
    network: nn.Module, settings: TeachingSettings, losses: Callable[[object], dict[str, Tensor]]
) -> Objective:
    """``losses`` minimised over all parameters of ``network``."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    return Objective(losses, optimizer, lambda step, total: warmup_cosine(step, total, settings.warmup_steps))


def job_of(settings: PanoramaSettings, label: str, folder: str, steps: int, inputs: object, log: RunLog) -> TrainingJob:
    """A training of this recipe in OUT/``folder``; its result follows from ``inputs``."""
    fingerprint = fingerprint_of({"stage": label, "seed": settings.seed, "inputs": inputs})
    return TrainingJob(settings.out / folder, fingerprint, label, settings.seed, num_steps=steps, log=log)


@dataclass(frozen=True)
class RectifiedBatch:
    """Panoramas of a step by their rows, and pinhole photos, None without."""

    image_ids: tuple[str, ...]
    rows: tuple[int, ...]
    epoch: int
    photos: PhotoBatch | None
    panoramas_count: bool = True
    """Whether the panoramas are part of the step, see `Ranks.share`; the photos may be where they are not."""

    @property
    def counts(self) -> bool:
        """Whether any of it is."""
        return self.panoramas_count or (self.photos is not None and self.photos.counts)


class Rectification:
    """Panoramas without labels for the assistant: neighbouring windows, and boundaries of masks."""

    def __init__(
        self,
        network: SemanticNetwork,
        panoramas: SemanticPhotos,
        masks: WindowMasks,
        photos: PhotoCrops | None,
        settings: PanoramaSettings,
    ) -> None:
        self.network, self.panoramas, self.masks, self.photos = network, panoramas, masks, photos
        self.settings, self.windows = settings, settings.windows.windows

    @property
    def batches_per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.panoramas) // self.settings.rectification.batch_size)

    def batches(self, epoch: int) -> Iterator[RectifiedBatch]:
        """This process's part of the batches of an epoch: every panorama once, and pinhole photos."""
        of, seed = self.settings.rectification, self.settings.seed
        photos = self._photos(epoch)
        for of_all in drawn_batches(len(self.panoramas), of.batch_size, derive_seed(seed, RECTIFIED, epoch)):
            rows, counts = ranks().share(of_all)
            image_ids = tuple(self.panoramas.dataset.samples[row].image_id for row in rows)
            yield RectifiedBatch(image_ids, tuple(rows), epoch, next(photos, None), counts)

    def _photos(self, epoch: int) -> Iterator[PhotoBatch]:
        """As many batches of pinhole photos as are wanted, from one epoch of theirs to the next; none without any."""
        if self.photos is None or not self.settings.rectification.photos_weight:
            return
        for turn in range(self.batches_per_epoch):
            yield from self.photos.batches(epoch * self.batches_per_epoch + turn)

    def losses(self, batch: RectifiedBatch) -> dict[str, Tensor]:
        """The weighted losses of a batch by their names: means over the panoramas of all processes."""
        of = self.settings.rectification
        with ranks().counting(batch.panoramas_count):
            num = max(1, ranks().total(len(batch.rows)))
            several = ranks().size > 1
            with each_photo_apart(self.network):
                each = [self._of_panorama(row, batch.epoch, several) for row in batch.rows]
        counted = 1.0 if batch.panoramas_count else 0.0
        losses = {
            "consistency": counted * (torch.stack([consistency for consistency, _ in each]).sum() / num),
            "boundary": counted * of.boundary_weight * (torch.stack([boundary for _, boundary in each]).sum() / num),
        }
        if batch.photos is not None:
            with ranks().counting(batch.photos.counts):
                losses["photos"] = of.photos_weight * label_loss_of(self.network, batch.photos)
            losses["photos"] = losses["photos"] * (1.0 if batch.photos.counts else 0.0)
        return losses

    def _of_panorama(self, row: int, epoch: int, several: bool) -> tuple[Tensor, Tensor]:
        """Consistency and boundary loss of neighbouring windows of one panorama, drawn by (seed, image id, epoch).

        With ``several`` processes dropout is drawn by them too, see `label_loss_of`.
        """
        size, device = self.panoramas.size(row), self.network.mean.device
        every = self.windows.offsets(size)
        seed = derive_seed(self.settings.seed, RECTIFIED, self.panoramas.dataset.samples[row].image_id, epoch)
        generator = torch.Generator().manual_seed(seed)
        first = int(torch.randint(len(every), (1,), generator=generator))
        num = min(self.settings.rectification.windows, len(every))
        offsets = [every[(first + step) % len(every)] for step in range(num)]
        window = self.windows.fitted(size)
        if several:
            torch.manual_seed(seed)
        logits = self.network(crops_at(self.panoramas.pixels(row), offsets, window).to(device)).logits
        pairs = overlaps(*on_grid(offsets, window, size))
        consistency = consistency_loss(logits, pairs, self.settings.rectification.temperature)
        seen = enlarged(logits, window)
        classes = seen.detach().argmax(dim=1)
        labels = [
            repaired_labels(of_window, self.masks.boundaries(row, offset).to(device), logits.shape[1])
            for of_window, offset in zip(classes, offsets, strict=True)
        ]
        return consistency, boundary_loss(seen, torch.stack(labels))


def on_grid(
    offsets: Sequence[tuple[int, int]], window: tuple[int, int], size: tuple[int, int]
) -> tuple[list[tuple[int, int]], tuple[int, int], tuple[int, int]]:
    """Offsets, window and panorama in the pixels of logits, of which one stands for `STRIDE` pixels."""
    places = [(top // STRIDE, left // STRIDE) for top, left in offsets]
    return places, (window[0] // STRIDE, window[1] // STRIDE), (size[0] // STRIDE, size[1] // STRIDE)


@torch.no_grad()
def stitched_logits(network: SemanticNetwork, pixels: Tensor, windows: PanoramaWindows, at_once: int = 8) -> Tensor:
    """The assistant's logits ``(C, H / 4, W / 4)`` on a panorama ``(3, H, W)``: the mean of those on its windows."""
    size = (pixels.shape[1], pixels.shape[2])
    crops, device = windows.crops(pixels), network.mean.device
    logits = torch.cat([network(part.to(device)).logits for part in crops.split(at_once)])
    places, _, grid = on_grid(windows.offsets(size), windows.fitted(size), size)
    return stitch(logits, places, grid)
