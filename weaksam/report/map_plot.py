"""Draw precision over recall, and F over the threshold, of grey maps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from weaksam.evaluation.map_files import MapReport
from weaksam.report.pictures import colour_of
from weaksam.report.recall_plot import save_plot


def write_map_plot(path: Path, reports: Mapping[str, MapReport]) -> None:
    """Write both curves of every report, one colour each; at least one. Raises `UserError` as `save_plot` does."""
    save_plot(map_curves(reports), path)


def map_curves(reports: Mapping[str, MapReport]) -> Figure:
    """The figure of both curves of every report, at least one."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for index, (name, report) in enumerate(reports.items()):
        figures, colour = report.figures, colour_of(index)
        left.plot(figures.recall, figures.precision, color=colour, lw=1.8, label=name)
        thresholds = range(len(figures.f_curve) - 1, -1, -1)
        right.plot(thresholds, figures.f_curve, color=colour, lw=1.8, label=f"{name}: max {figures.max_f:.3f}")
    left.set(xlabel="recall", ylabel="precision, F", xlim=(0, 1.01), ylim=(0, 1.01))
    right.set(xlabel="threshold (0..255)", xlim=(0, 255))
    for axes in (left, right):
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="lower left")
    protocol = next(iter(reports.values())).protocol
    figure.supxlabel(textwrap.fill(protocol, 170), fontsize=7, color="#606060")
    return figure
