"""Show the photos of end-to-end training to the network: resized, mirrored, in another light, and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from weaksam.data.read_ahead import ReadAhead
from weaksam.data.sample_photos import read_photo
from weaksam.engine.detectors.photos import fit_size
from weaksam.models.backbones.colours import ColourSettings
from weaksam.models.backbones.inputs import normalise_levels
from weaksam.models.ranks import ranks
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.examples import ExampleBatch, TrainingExample, photo_seeds
from weaksam.structures.boxes import hflip, scale
from weaksam.structures.dataset import Sample
from weaksam.structures.devices import pinned

# Standard deviations and directions of the colours of ImageNet, red, green, blue in 0..1 (AlexNet, NIPS 2012)
_LIGHT_SPREAD = torch.tensor([0.2175, 0.0188, 0.0045])
_LIGHT_DIRECTIONS = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


@dataclass(frozen=True)
class PhotoView:
    """One way to show a photo: its shorter side in pixels, mirrored or not, and what is added to red, green, blue."""

    short_side: int
    mirrored: bool = False
    light: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ShownPhoto:
    """What the network sees: ``pixels`` float (3, h, w), and the (x, y) ``scale`` from the photo to them."""

    pixels: Tensor
    scale: tuple[float, float]
    view: PhotoView

    def boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes ``(N, 4)`` of the photo of ``size`` (H, W) in these pixels."""
        shown = hflip(boxes, size[1]) if self.view.mirrored else boxes
        return scale(shown, *self.scale)


@dataclass(frozen=True)
class EndToEndBatch(ExampleBatch):
    """Photos of one step as the network sees them."""

    photos: tuple[ShownPhoto, ...] = ()
    canvas: tuple[int, int] = (0, 0)
    """The greatest height and width of the photos that pass together, in whatever process."""
    apart: bool = False
    """Whether each process computes whole passes, which depend on no other process."""


def show(image: np.ndarray, view: PhotoView, most_long_side: int, colours: ColourSettings) -> ShownPhoto:
    """A photo, uint8 ``(H, W, 3)``, resized (antialiased), lit, coloured and mirrored as ``view`` says."""
    height, width = image.shape[:2]
    h, w = fit_size((height, width), view.short_side, most_long_side)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    pixels = TF.resize(pixels, [h, w], antialias=True).float() + torch.tensor(view.light).view(3, 1, 1)
    pixels = normalise_levels(pixels, colours)
    return ShownPhoto(pixels.flip(2) if view.mirrored else pixels, (w / width, h / height), view)


def random_views(num: int, settings: EndToEndSettings) -> list[PhotoView]:
    """One random view for each of ``num`` photos, from the global random numbers."""
    sides = torch.randint(len(settings.short_sides), (num,)).tolist()
    mirrored = (torch.rand(num) < 0.5).tolist()
    strengths = settings.lighting * torch.randn(num, 3)
    light = 255 * (strengths * _LIGHT_SPREAD) @ _LIGHT_DIRECTIONS.T
    rows = zip(sides, mirrored, light.tolist(), strict=True)
    return [PhotoView(settings.short_sides[side], flip, (r, g, b)) for side, flip, (r, g, b) in rows]


def end_to_end_batches(
    examples: Sequence[TrainingExample],
    batch_size: int,
    settings: EndToEndSettings,
    colours: ColourSettings,
    device: torch.device,
) -> Sequence[EndToEndBatch]:
    """The batches of an epoch in random order, each photo in a random view; photos are decoded ahead on threads.

    For a GPU as ``device`` they lie in memory that it copies from without waiting. All draws are made at once, here, so
    that passing over batches changes none.
    """
    order = torch.randperm(len(examples)).tolist()
    views = random_views(len(examples), settings)
    starts = range(0, len(examples), batch_size)
    rows = list(zip(examples, views, photo_seeds(examples), strict=True))
    plans = [[rows[i] for i in order[start : start + batch_size]] for start in starts]
    return ReadAhead(plans, lambda plan: _load(plan, settings, colours, device), settings.read_ahead)


def _load(
    plan: Sequence[tuple[TrainingExample, PhotoView, int]],
    settings: EndToEndSettings,
    colours: ColourSettings,
    device: torch.device,
) -> EndToEndBatch:
    """The photos of a batch that have a proposal; where several processes compute a step, this one's share of them.

    Photos that pass together (``photos_at_once``) stay together; those of one pass alone are shared out.
    """
    useful = [row for row in plan if len(row[0].boxes)]
    at_once = settings.photos_at_once or max(len(useful), 1)
    parts = [useful[start : start + at_once] for start in range(0, len(useful), at_once)]
    canvas = (0, 0)
    if len(parts) > 1:
        shared, counts = ranks().share(parts)
        own = [row for part in shared for row in part]
    else:
        own, counts = ranks().share(useful)
        sizes = [fit_size(example.sample.size, view.short_side, settings.most_long_side) for example, view, _ in useful]
        canvas = (max((h for h, _ in sizes), default=0), max((w for _, w in sizes), default=0))
    shown = (shown_sample(example.sample, view, settings, colours) for example, view, _ in own)
    return EndToEndBatch(
        tuple(example for example, _, _ in own),
        tuple(view.mirrored for _, view, _ in own),
        tuple(seed for _, _, seed in own),
        len(useful),
        tuple(example.sample.image_id for example, _, _ in plan),
        counts,
        tuple(replace(photo, pixels=pinned(photo.pixels, device)) for photo in shown),
        canvas,
        apart=len(parts) > 1,
    )


def shown_sample(sample: Sample, view: PhotoView, settings: EndToEndSettings, colours: ColourSettings) -> ShownPhoto:
    """Read a photo and show it."""
    return show(read_photo(sample), view, settings.most_long_side, colours)
