"""Draw the error rate of foreground regions over their loss, and what RoI drop took: the paper's motivation figure."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weaksam.evaluation.roi_drop_figures import RoiDropFigures
from weaksam.evaluation.roi_drop_proposals import DropProposal
from weaksam.report.pictures import colour_of
from weaksam.report.recall_plot import save_plot

TITLES = {"class": "class loss", "box": "box loss", "mask": "mask loss"}
STYLES = {"independent": "--", "joint": ":"}
"""Line styles of the limits, by gate."""


def write_roi_drop_plot(path: Path, figures: RoiDropFigures) -> None:
    """Write error rates with the proposed limits above, and the number of regions below; raw and normalised losses.

    A column for each term and each of the two. Where the run had RoI drop, a last column shows the share dropped by
    epoch. No regions give empty axes.
    """
    columns = [(term, threshold) for term in figures.regions.losses for threshold in ("loss", "normalised")]
    num = len(columns) + bool(figures.dropped)
    figure = Figure(figsize=(3.3 * num + 0.6, 5.4), layout="constrained")
    axes = figure.subplots(2, num, squeeze=False, height_ratios=(2, 1), sharex="col")
    for (above, below), (term, threshold) in zip(axes.T, columns, strict=False):
        _draw_errors(above, figures, term, threshold)
        _draw_counts(below, figures, term, threshold)
    axes[0, 0].set_ylabel("error rate of the regions")
    axes[1, 0].set_ylabel("regions")
    if figures.dropped:
        axes[1, -1].remove()
        _draw_dropped(axes[0, -1], figures)
    for panel in axes.flat:
        panel.grid(color="#e4e4e4")
        panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        textwrap.fill(f"{figures.protocol}. Limits: {figures.rule}.", 52 * num), fontsize=6.5, color="#606060"
    )
    save_plot(figure, path)


def _limits(figures: RoiDropFigures, threshold: str) -> list[DropProposal]:
    return [proposal for proposal in figures.proposals if proposal.threshold == threshold]


def _draw_errors(axes: Axes, figures: RoiDropFigures, term: str, threshold: str) -> None:
    """Error rate over the loss, the rate of all regions, and the limits of both gates."""
    bins = figures.bins(term, threshold)
    rates, known = bins.error_rate, bins.counts > 0
    axes.plot(bins.centers[known], rates[known], color=colour_of(0), lw=1.8, marker="o", ms=3)
    if len(figures.regions):
        axes.axhline(figures.regions.error_rate, color="#909090", lw=1, label="all regions")
    for proposal in _limits(figures, threshold):
        limit = proposal.limits.get(term)
        if limit is not None:
            label = f"{proposal.gate}: {limit:.3g}"
            axes.axvline(limit, color="#202020", lw=1.2, ls=STYLES[proposal.gate], label=label)
    axes.set_ylim(0, 1.01)
    axes.set_title(TITLES[term] if threshold == "loss" else f"{TITLES[term]}, normalised", fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7, loc="best")


def _draw_counts(axes: Axes, figures: RoiDropFigures, term: str, threshold: str) -> None:
    """How many regions there are in each bin, the wrong ones among them darker."""
    bins = figures.bins(term, threshold)
    width = np.diff(bins.edges)
    axes.bar(bins.edges[:-1], bins.counts, width, align="edge", color="#c9d6e8")
    axes.bar(bins.edges[:-1], bins.wrong, width, align="edge", color=colour_of(0), alpha=0.7)
    axes.set_xlabel("loss, the last bin all above" if threshold == "loss" else "loss, 0 to 1 over a batch")


def _draw_dropped(axes: Axes, figures: RoiDropFigures) -> None:
    """The share of foreground regions that left each term, by epoch."""
    for number, (term, shares) in enumerate(figures.dropped.items()):
        axes.plot(range(1, len(shares) + 1), shares, color=colour_of(number), lw=1.8, marker="o", ms=3, label=term)
    axes.set_title("share dropped in the run", fontsize=10)
    axes.set_xlabel("epoch")
    axes.tick_params(labelbottom=True)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
