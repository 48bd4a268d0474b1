"""Measure grey maps of one foreground against true masks: MAE, F, weighted F, E and S, as concealed objects are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.ndimage import convolve, distance_transform_edt

NUM_THRESHOLDS = 256
"""Thresholds of the curves: levels 255, 254, ... 0 of 8 bits, a pixel of at least the threshold is foreground."""
BETA_SQUARED = 0.3
"""Weight of precision in F (Achanta et al., CVPR 2009); the weighted F takes 1."""
ALPHA = 0.5
"""Share of the objects' part in S."""
_EPS = float(np.spacing(1.0))


@dataclass(frozen=True)
class MapMeasures:
    """The measures of one map, each in [0, 1] (E up to H W / (H W - 1)); curves ``(256,)`` from threshold 255 down."""

    mae: float
    weighted_f: float
    s: float
    adaptive_f: float
    adaptive_e: float
    f_curve: np.ndarray
    e_curve: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


@dataclass(frozen=True)
class MapFigures(MapMeasures):
    """Means over the maps of a set; curves are averaged first, then their mean and greatest value is taken."""

    num_maps: int

    @classmethod
    def of(cls, measures: Sequence[MapMeasures]) -> MapFigures:
        """The means of at least one map's measures."""
        assert measures, "figures want at least one map"
        columns = {field.name: [getattr(of_map, field.name) for of_map in measures] for field in fields(MapMeasures)}
        means: dict[str, Any] = {name: np.mean(values, axis=0) for name, values in columns.items()}
        return cls(**{name: mean if mean.ndim else float(mean) for name, mean in means.items()}, num_maps=len(measures))

    @property
    def mean_f(self) -> float:
        """Mean of the F curve over the thresholds."""
        return float(self.f_curve.mean())

    @property
    def max_f(self) -> float:
        """Greatest value of the F curve."""
        return float(self.f_curve.max())

    @property
    def mean_e(self) -> float:
        """Mean of the E curve over the thresholds."""
        return float(self.e_curve.mean())

    @property
    def max_e(self) -> float:
        """Greatest value of the E curve."""
        return float(self.e_curve.max())

    def as_dict(self) -> dict[str, Any]:
        """The figures without the curves."""
        names = ("mae", "adaptive_f", "mean_f", "max_f", "weighted_f", "adaptive_e", "mean_e", "max_e", "s")
        return {name: getattr(self, name) for name in names} | {"num_maps": self.num_maps}


def stretched(prediction: np.ndarray) -> np.ndarray:
    """``prediction`` (H, W) with its least value at 0 and its greatest at 1; a flat map stays as it is."""
    low, high = float(prediction.min()), float(prediction.max())
    return prediction if low == high else (prediction - low) / (high - low)


def measure_map(prediction: np.ndarray, truth: np.ndarray) -> MapMeasures:
    """The measures of a map ``prediction`` (H, W) float in [0, 1] against ``truth`` (H, W) bool.

    Without a true pixel F and weighted F are 0, E is the share of background and S is 1 - the map's mean; where all
    pixels are true E is the share of foreground and S the mean. Raises ``ValueError`` for other shapes or values.
    """
    if prediction.shape != truth.shape or prediction.ndim != 2 or prediction.size == 0:
        raise ValueError(f"map and truth must be (H, W) alike, found {prediction.shape} and {truth.shape}: resize one")
    prediction = prediction.astype(np.float64)
    if not (prediction.min() >= 0 and prediction.max() <= 1):
        raise ValueError("a map must lie in [0, 1], found other values: divide by its greatest level")
    counts = _ThresholdCounts.of(prediction, truth)
    binary = prediction >= min(2 * float(prediction.mean()), 1.0)
    adaptive = _ThresholdCounts(
        np.array([np.count_nonzero(binary & truth)]), np.array([np.count_nonzero(binary & ~truth)]), *counts.sizes
    )
    precision, recall, f_curve = counts.precision_recall_f()
    return MapMeasures(
        mae=float(np.abs(prediction - truth).mean()),
        weighted_f=weighted_f(prediction, truth),
        s=s_measure(prediction, truth),
        adaptive_f=float(adaptive.precision_recall_f()[2][0]),
        adaptive_e=float(adaptive.e()[0]),
        f_curve=f_curve,
        e_curve=counts.e(),
        precision=precision,
        recall=recall,
    )


@dataclass(frozen=True)
class _ThresholdCounts:
    """Foreground pixels by threshold ``(T,)`` inside and outside the truth; true pixels and all pixels."""

    hits: np.ndarray
    false: np.ndarray
    num_true: int
    num_pixels: int

    @classmethod
    def of(cls, prediction: np.ndarray, truth: np.ndarray) -> _ThresholdCounts:
        """Of a map, at every threshold of 8 bits, by one histogram each."""
        levels = (prediction * (NUM_THRESHOLDS - 1)).astype(np.uint8)  # as the toolboxes do: cut, not rounded
        inside, outside = (
            np.bincount(levels[part], minlength=NUM_THRESHOLDS)[::-1].cumsum() for part in (truth, ~truth)
        )
        return cls(inside, outside, int(np.count_nonzero(truth)), truth.size)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.num_true, self.num_pixels

    def precision_recall_f(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F ``(T,)`` each; 0 where nothing is hit."""
        precision = self.hits / np.maximum(self.hits + self.false, 1)
        recall = self.hits / max(self.num_true, 1)
        below = np.where(self.hits == 0, 1.0, BETA_SQUARED * precision + recall)
        return precision, recall, (1 + BETA_SQUARED) * precision * recall / below

    def e(self) -> np.ndarray:
        """E-measure ``(T,)`` (Fan et al., IJCAI 2018), over H W - 1 pixels as its released code divides.

        A binary map has four kinds of pixels (foreground or not, true or not), in each of which the alignment is one
        number, so no map of alignments is needed.
        """
        foreground = self.hits + self.false
        background = self.num_pixels - foreground
        if self.num_true in (0, self.num_pixels):
            total = background if self.num_true == 0 else foreground
            return np.asarray(total / (self.num_pixels - 1 + _EPS), dtype=np.float64)
        missed = self.num_true - self.hits
        mean, true_mean = foreground / self.num_pixels, self.num_true / self.num_pixels
        total = np.zeros(len(foreground))
        for number, value, true_value in (
            (self.hits, 1 - mean, 1 - true_mean),
            (self.false, 1 - mean, -true_mean),
            (missed, -mean, 1 - true_mean),
            (background - missed, -mean, -true_mean),
        ):
            alignment = 2 * value * true_value / (value**2 + true_value**2 + _EPS)
            total += number * (1 + alignment) ** 2 / 4
        return np.asarray(total / (self.num_pixels - 1 + _EPS))


def _gaussian(side: int = 7, sigma: float = 5.0) -> np.ndarray:
    """The normalised Gaussian ``(side, side)`` over which errors inside the truth are smoothed."""
    line = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * sigma * sigma))
    kernel = np.outer(line, line)
    return np.asarray(kernel / kernel.sum())


def weighted_f(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Weighted F in [0, 1] (Margolin et al., CVPR 2014), beta 1; 0 without a true pixel.

    Errors inside the truth are smoothed over their neighbours where that lowers them; errors outside count up to twice,
    the more the farther away they lie.
    """
    if not truth.any():
        return 0.0
    distance, (rows, columns) = distance_transform_edt(~truth, return_indices=True)
    error = np.abs(prediction - truth)
    smoothed = convolve(error[rows, columns], weights=_gaussian(), mode="constant", cval=0.0)
    inside = np.minimum(error, smoothed)[truth]
    outside = (error * (2 - np.exp(np.log(0.5) / 5 * distance)))[~truth]
    hits = truth.sum() - inside.sum()
    recall, precision = 1 - inside.mean(), hits / (hits + outside.sum() + _EPS)
    return float(2 * recall * precision / (recall + precision + _EPS))


def s_measure(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Structure measure in [0, 1] (Fan et al., ICCV 2017): half the objects' part, half the regions'."""
    share = float(truth.mean())
    if share in (0.0, 1.0):
        mean = float(prediction.mean())
        return 1 - mean if share == 0 else mean
    objects = share * _object_score(prediction[truth]) + (1 - share) * _object_score(1 - prediction[~truth])
    return max(0.0, ALPHA * objects + (1 - ALPHA) * _region_score(prediction, truth))


def _object_score(values: np.ndarray) -> float:
    """How high and even ``values (n,)`` are that should be 1."""
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + deviation + _EPS)


def _region_score(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of the four parts around the truth's centroid, each by its share of the pixels."""
    height, width = truth.shape
    row, column = (int(middle) + 1 for middle in np.argwhere(truth).mean(axis=0).round())
    parts = [
        (slice(*down), slice(*across))
        for down in ((0, row), (row, height))
        for across in ((0, column), (column, width))
    ]
    return sum(
        truth[part].size / truth.size * _similarity(prediction[part], truth[part]) for part in parts if truth[part].size
    )


def _similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of two parts (h, w); 1 where both are flat."""
    divisor = prediction.size - 1 + _EPS
    mean, true_mean = float(prediction.mean()), float(truth.mean())
    off, true_off = prediction - mean, truth - true_mean
    spread = (np.sum(off**2) + np.sum(true_off**2)) / divisor
    above = 4 * mean * true_mean * np.sum(off * true_off) / divisor
    below = (mean**2 + true_mean**2) * spread
    if above != 0:
        return float(above / (below + _EPS))
    return 1.0 if below == 0 else 0.0
