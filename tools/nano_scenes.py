"""Draw the batches that sam_nano is trained on: views of rendered scenes, with prompts and the masks they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from weaksam.engine.seeds import derive_seed
from weaksam.models.ranks import ranks
from weaksam.sam.nano.model import NanoSam
from weaksam.scenes.part_prompts import PartPrompts, sample_prompts
from weaksam.scenes.part_scenes import render_part_scene

HELD_OUT = 1_000_000_000
"""Scene numbers from here on are never trained on."""
CAPACITY = 6000
"""A batch is drawn from so many of the latest scenes, of which every step adds one."""
Levels = tuple[np.ndarray, np.ndarray]
"""A scene's image ``(H, W, 3)`` and levels ``(3, H, W)``."""


@dataclass(frozen=True)
class PromptBatch:
    """Images ``(B, 3, 256, 256)`` normalised, and N prompts: see ``PartPrompts``; ``image_index (N,)``."""

    images: Tensor
    image_index: Tensor
    coords: Tensor
    labels: Tensor
    targets: Tensor
    num_targets: Tensor
    image_ids: tuple[str, ...] = ()
    """The scenes of the whole batch, where several processes compute it."""
    counts: bool = True
    """Whether these images are part of the batch, see `Ranks.share`."""


class AugmentedScene(NamedTuple):
    """A scene's image ``(H, W, 3)`` and levels ``(3, H, W)``, of which the first ``kept`` (h, w) are not padding."""

    image: np.ndarray
    levels: np.ndarray
    kept: tuple[int, int]


class SceneBatches:
    """The batch of every step, which follows from (seed, step) alone, whoever computes which part of it.

    Each step adds a scene to the ``num_first`` ones; a batch is drawn from the latest `CAPACITY`. Scenes are rendered
    when they are first drawn and kept.
    """

    def __init__(self, seed: int, num_first: int, num_images: int, num_prompts: int) -> None:
        self.seed, self.num_first, self.num_images, self.num_prompts = seed, num_first, num_images, num_prompts
        self._scenes: dict[int, Levels] = {}

    def of_step(self, model: NanoSam, step: int) -> PromptBatch:
        """This rank's part of the batch of ``step`` (0-based), each image varied by its own draws."""
        end = self.num_first + step
        draws = [np.random.default_rng(derive_seed(self.seed, "scene", step, n)) for n in range(self.num_images)]
        numbers = [int(rng.integers(max(0, end - CAPACITY), end)) for rng in draws]
        own, counts = ranks().share(range(self.num_images))
        scenes = [augment(*self._scene(numbers[n], end), draws[n]) for n in own]
        image_ids = tuple(f"scene {number}" for number in numbers)
        return collate(model, scenes, self.num_prompts, [draws[n] for n in own], image_ids, counts)

    def _scene(self, number: int, end: int) -> Levels:
        """The scene of this number of the training; what is too old to be drawn again is forgotten."""
        if number not in self._scenes:
            for old in [old for old in self._scenes if old < end - CAPACITY]:
                del self._scenes[old]
            scene = render_part_scene(((self.seed + 1) * 10_000_000 + number) % HELD_OUT)
            self._scenes[number] = (scene.image, scene.levels)
        return self._scenes[number]


def augment(image: np.ndarray, levels: np.ndarray, rng: np.random.Generator) -> AugmentedScene:
    """Turn, mirror, recolour, and cut ``image`` so that a rest must be padded."""
    if rng.random() < 0.5:
        image, levels = image.transpose(1, 0, 2), levels.transpose(0, 2, 1)
    step_y, step_x = rng.choice([1, -1], 2)
    image, levels = image[::step_y, ::step_x], levels[:, ::step_y, ::step_x]
    gain = rng.uniform(0.8, 1.2, 3).astype(np.float32)
    image = np.clip(image[..., rng.permutation(3)] * gain, 0, 255)
    kept = list(image.shape[:2])
    if rng.random() < 0.5:
        kept[rng.integers(2)] = int(image.shape[0] * rng.uniform(0.5, 1.0))
    levels = levels.copy()
    levels[:, kept[0] :] = 0
    levels[:, :, kept[1] :] = 0
    return AugmentedScene(image, levels, (kept[0], kept[1]))


def collate(
    model: NanoSam,
    scenes: Sequence[AugmentedScene],
    num_prompts: int,
    draws: Sequence[np.random.Generator],
    image_ids: tuple[str, ...] = (),
    counts: bool = True,
) -> PromptBatch:
    """Stack augmented scenes, on the CPU, and draw ``num_prompts`` prompts on each by its own ``draws``."""
    mean, deviation = model.pixel_mean.cpu(), model.pixel_std.cpu()
    images = [_input(scene, mean, deviation, model.image_encoder.img_size) for scene in scenes]
    pairs = zip(scenes, draws, strict=True)
    prompts: list[PartPrompts] = [sample_prompts(scene.levels, num_prompts, rng) for scene, rng in pairs]

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(of_scene, name) for of_scene in prompts]))

    return PromptBatch(
        torch.stack(images).contiguous(memory_format=torch.channels_last),
        torch.arange(len(scenes)).repeat_interleave(num_prompts),
        *(column(name) for name in ("coords", "labels", "targets", "counts")),
        image_ids=image_ids,
        counts=counts,
    )


def _input(scene: AugmentedScene, mean: Tensor, deviation: Tensor, side: int) -> Tensor:
    """SAM's preprocessing of what is no padding of a scene: float32 ``(3, side, side)``."""
    height, width = scene.kept
    pixels = torch.from_numpy(np.ascontiguousarray(scene.image[:height, :width], np.float32)).permute(2, 0, 1)
    return torch.nn.functional.pad((pixels - mean) / deviation, (0, side - width, 0, side - height))


def held_out(model: NanoSam, num_scenes: int) -> list[PromptBatch]:
    """Fixed scenes that are never trained on."""
    rng = np.random.default_rng(0)
    scenes = [render_part_scene(HELD_OUT + i) for i in range(num_scenes)]
    plain = [AugmentedScene(scene.image, scene.levels, scene.size) for scene in scenes]
    parts = (plain[i : i + 8] for i in range(0, num_scenes, 8))
    return [collate(model, part, 16, [rng] * len(part)) for part in parts]
