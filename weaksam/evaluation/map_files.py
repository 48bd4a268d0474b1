"""Measure a folder of grey maps against a folder of true masks, and say by which protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from weaksam import __version__
from weaksam.data.grey_pictures import pictures_by_name, read_grey, read_mask, require_pairs
from weaksam.evaluation.foreground_maps import NUM_THRESHOLDS, MapFigures, MapMeasures, measure_map, stretched
from weaksam.evaluation.text import number
from weaksam.store.progress import progress


@dataclass(frozen=True)
class MapReport:
    """The figures of a set of maps and how they were measured.

    ``sizes``: smallest and greatest (H, W) by area of the true masks, at which maps are measured. ``num_resized``: maps
    of another size than their mask's. ``stretched``: whether each map's least level was moved to 0, its greatest to 1.
    """

    figures: MapFigures
    sizes: tuple[tuple[int, int], tuple[int, int]]
    num_resized: int
    stretched: bool

    @property
    def protocol(self) -> str:
        """How it was measured, in words."""
        small, large = (f"{width} x {height}" for height, width in self.sizes)
        resolution = small if small == large else f"{small} to {large}"
        scaling = "each map stretched to 0..1" if self.stretched else "levels as they are"
        resized = f", {self.num_resized} of {self.figures.num_maps} maps resized to it" if self.num_resized else ""
        return (
            f"weaksam {__version__}; resolution of the true masks ({resolution} pixels{resized}); {scaling}; "
            f"{NUM_THRESHOLDS} thresholds of 8 bits; F with beta^2 = 0.3, weighted F with 1, adaptive threshold twice "
            "the map's mean; means over the maps"
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures with the protocol in words."""
        return {**self.figures.as_dict(), "protocol": self.protocol}


def measure_pairs(
    names: list[str], pair: Callable[[str], tuple[np.ndarray, np.ndarray]], *, stretch: bool, title: str
) -> MapReport:
    """The figures of maps by name; ``pair(name)`` gives a map float in [0, 1] and its true mask bool, both (H, W).

    A map of another size is resized to its mask (bilinear). At least one name.
    """
    measures: list[MapMeasures] = []
    sizes: list[tuple[int, int]] = []
    num_resized = 0
    for name in progress(names, len(names), title):
        prediction, truth = pair(name)
        num_resized += prediction.shape != truth.shape
        prediction = resized_map(prediction, (truth.shape[0], truth.shape[1]))
        measures.append(measure_map(stretched(prediction) if stretch else prediction, truth))
        sizes.append((truth.shape[0], truth.shape[1]))
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return MapReport(MapFigures.of(measures), (by_area[0], by_area[-1]), num_resized, stretch)


def measure_folders(predictions: Path, truth: Path, *, stretch: bool = True) -> MapReport:
    """The figures of the maps in one folder against the masks in another, paired by their names without ending.

    Maps without a mask are left out. Raises `UserError` for a mask without a map and for what is no picture.
    """
    masks, maps = pictures_by_name(truth), pictures_by_name(predictions)
    require_pairs(masks, maps, predictions, "maps")

    def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
        return read_grey(maps[name]) / 255.0, read_mask(masks[name])

    return measure_pairs(list(masks), pair, stretch=stretch, title="eval-maps")


def resized_map(prediction: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w) float at ``size`` (H, W), bilinear; one of that size as it is."""
    if prediction.shape == size:
        return prediction
    picture = Image.fromarray(prediction.astype(np.float32))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR), dtype=np.float64).clip(0, 1)


def map_text(report: MapReport) -> str:
    """The figures as lines for the terminal."""
    figures = report.figures
    rows = (
        ("M (mean absolute error)", (figures.mae,)),
        ("F adaptive, mean, max", (figures.adaptive_f, figures.mean_f, figures.max_f)),
        ("F weighted", (figures.weighted_f,)),
        ("E adaptive, mean, max", (figures.adaptive_e, figures.mean_e, figures.max_e)),
        ("S", (figures.s,)),
    )
    lines = [f"{name:<26}" + "".join(f"{number(value):>8}" for value in values) for name, values in rows]
    return "\n".join([*lines, f"{figures.num_maps} maps; {report.protocol}"])
