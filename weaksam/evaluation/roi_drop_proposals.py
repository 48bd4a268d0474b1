"""Propose thresholds of RoI drop from foreground regions whose pseudo boxes are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from weaksam.evaluation.roi_errors import ForegroundRegions

RATE = 0.5
"""Regions are worth dropping where more than this share of them is wrong."""
MIN_REGIONS = 20
"""No threshold is proposed above which fewer regions lie."""
GATES = ("independent", "joint")
THRESHOLDS = ("loss", "normalised", "share")
_NEVER = {"loss": 1000.0, "normalised": 1.0, "share": 0.0}
"""Limits that no region is above, for a term without a proposal beside one that has it."""


@dataclass(frozen=True)
class DropProposal:
    """Limits for a gate and a meaning of them, and what they would have dropped of the measured regions.

    ``limits``: by term; None: none is proposed for that term. ``dropped``: share of the regions that leave the term,
    ``wrong``: share of those whose pseudo box is wrong, ``caught``: share of all wrong regions that leave it; each by
    term.
    """

    gate: str
    threshold: str
    limits: Mapping[str, float | None]
    dropped: Mapping[str, float]
    wrong: Mapping[str, float]
    caught: Mapping[str, float]

    @property
    def usable(self) -> bool:
        """Whether a limit is proposed at all."""
        return any(limit is not None for limit in self.limits.values())

    def settings(self, section: str, share: float) -> list[str]:
        """``key=value`` settings of the ``section`` (``retrain`` or ``wsis``) from ``share`` of the training on.

        Empty where nothing is proposed.
        """
        if not self.usable:
            return []
        values: dict[str, Any] = {"gate": self.gate, "threshold": self.threshold}
        for term, limit in self.limits.items():
            if limit is not None or term != "mask":
                values[f"{term}_limit"] = _NEVER[self.threshold] if limit is None else limit
        return [f"{section}.roi_drop.{name}={value}" for name, value in {**values, "start_share": share}.items()]

    def as_dict(self, section: str, share: float) -> dict[str, Any]:
        """The proposal as JSON can hold it, with its settings."""
        figures = {"dropped": dict(self.dropped), "wrong": dict(self.wrong), "caught": dict(self.caught)}
        named = {"gate": self.gate, "threshold": self.threshold, "limits": dict(self.limits)}
        return {**named, **figures, "settings": self.settings(section, share)}


def limit_of(values: np.ndarray, wrong: np.ndarray) -> float | None:
    """The least value above which regions are worth dropping; None where there is none.

    The error rate over ``values`` (F,) of regions that are ``wrong`` or not (F,) is fitted by a curve that never falls
    (isotonic regression, least squares); the limit lies half way between the last value at which it is at most `RATE`
    and the first above. None where the curve never rises above `RATE`, where it is above from the least value on
    (everything would go), and where fewer than `MIN_REGIONS` regions lie above. The rule is ours.
    """
    if len(values) == 0:
        return None
    unique, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    rates = np.bincount(places, weights=wrong, minlength=len(unique)) / counts
    curve = isotonic_regression(rates, weights=counts).x
    first = int(np.searchsorted(curve, RATE + 1e-9, side="right"))  # the fit is exact but for rounding
    if first == 0 or counts[first:].sum() < MIN_REGIONS:
        return None
    return float((unique[first - 1] + unique[first]) / 2)


def propose(regions: ForegroundRegions, gate: str, threshold: str) -> DropProposal:
    """Limits of RoI drop for one of `GATES` and `THRESHOLDS`.

    Independent gate: `limit_of` each term by itself. Joint gate, which drops what is above both limits: class and box
    limit are at the same quantile, which is `limit_of` the lesser of a region's two quantiles.
    """
    values = {term: regions.values(term, threshold) for term in regions.losses}
    if gate == "joint":
        limits = _joint_limits({term: values[term] for term in ("class", "box")}, regions.wrong)
    else:
        limits = {term: limit_of(of_term, regions.wrong) for term, of_term in values.items()}
    above = {
        term: np.zeros(len(regions), bool) if limit is None else values[term] > limit for term, limit in limits.items()
    }
    if gate == "joint":
        above = dict.fromkeys(values, above["class"] & above["box"])
    shown = {term: _rounded(limit, threshold) for term, limit in limits.items()}
    return DropProposal(gate, threshold, shown, *_outcome(above, regions.wrong))


def proposals(regions: ForegroundRegions) -> list[DropProposal]:
    """A proposal for each gate and each meaning of the limits."""
    return [propose(regions, gate, threshold) for gate in GATES for threshold in THRESHOLDS]


def _joint_limits(values: Mapping[str, np.ndarray], wrong: np.ndarray) -> dict[str, float | None]:
    """Limits of class and box at one quantile, above both of which regions are worth dropping."""
    quantiles = {term: _quantiles(of_term) for term, of_term in values.items()}
    common = limit_of(np.minimum(*quantiles.values()), wrong)
    if common is None:
        return dict.fromkeys(values)
    return {term: _value_between(values[term], quantiles[term], common) for term in values}


def _quantiles(values: np.ndarray) -> np.ndarray:
    """The share (F,) of the values (F,) that are at most each."""
    return np.searchsorted(np.sort(values), values, side="right") / max(len(values), 1)


def _value_between(values: np.ndarray, quantiles: np.ndarray, quantile: float) -> float:
    """A value half way between the greatest at most at the quantile and the least above it."""
    below, above = values[quantiles <= quantile], values[quantiles > quantile]
    least = below.max() if len(below) else 0.0
    return float((least + above.min()) / 2)


def _rounded(limit: float | None, threshold: str) -> float | None:
    """The limit as RoI drop's settings take it, to four digits; a share counts from the highest loss down."""
    if limit is None:
        return None
    return float(f"{1 - limit if threshold == 'share' else limit:.4g}")


def _outcome(
    dropped: Mapping[str, np.ndarray], wrong: np.ndarray
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Shares by term: regions that are ``dropped`` (F,), wrong ones of these, and these of all ``wrong`` ones (F,)."""
    num, num_wrong = max(len(wrong), 1), max(int(wrong.sum()), 1)
    both = {term: int((rows & wrong).sum()) for term, rows in dropped.items()}
    return (
        {term: float(rows.sum() / num) for term, rows in dropped.items()},
        {term: both[term] / max(int(rows.sum()), 1) for term, rows in dropped.items()},
        {term: count / num_wrong for term, count in both.items()},
    )
