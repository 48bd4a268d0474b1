"""Predict class maps of panoramas by a network or from pseudo maps, and measure them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from weaksam.evaluation.class_maps import ClassMapResult, measure_class_maps
from weaksam.models.semantic.network import SemanticNetwork
from weaksam.recipes.panorama.assistant import stitched_logits
from weaksam.recipes.panorama.photos import SemanticPhotos
from weaksam.recipes.panorama.windows import enlarged
from weaksam.store.progress import progress
from weaksam.structures.panorama_windows import PanoramaWindows

Predict = Callable[[int], Tensor]
"""Row of a panorama to its class map int64 ``(h, w)``, or to its logits ``(C, h, w)``, of any size."""


def on_whole(network: SemanticNetwork, photos: SemanticPhotos) -> Predict:
    """Logits of ``network`` that sees each panorama whole."""
    return lambda row: whole_logits(network, photos.pixels(row))


@torch.no_grad()
def whole_logits(network: SemanticNetwork, pixels: Tensor) -> Tensor:
    """Logits ``(C, H / 4, W / 4)`` of a panorama ``(3, H, W)`` seen whole."""
    logits: Tensor = network.eval()(pixels[None].to(network.mean.device)).logits[0]
    return logits


def on_windows(network: SemanticNetwork, photos: SemanticPhotos, windows: PanoramaWindows) -> Predict:
    """Logits of ``network`` that sees each panorama in windows."""
    return lambda row: stitched_logits(network.eval(), photos.pixels(row), windows)


def class_map(predicted: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The class map, int64 of ``size``, of logits or of a class map of another size."""
    if predicted.ndim == 3:
        return enlarged(predicted[None].float(), size)[0].argmax(dim=0).cpu().numpy()
    resized: np.ndarray = TF.resize(
        predicted[None].cpu(), list(size), interpolation=TF.InterpolationMode.NEAREST_EXACT
    )[0].numpy()
    return resized


def measured(predict: Predict, photos: SemanticPhotos, title: str) -> ClassMapResult:
    """Measure what ``predict`` says of every labelled panorama, at the size of its class map."""

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for row in progress(range(len(photos)), len(photos), f"measuring {title}"):
            truth = photos.true_map(row)
            yield truth, class_map(predict(row), (truth.shape[0], truth.shape[1]))

    return measure_class_maps(pairs(), len(photos.classes), wraps=True)
