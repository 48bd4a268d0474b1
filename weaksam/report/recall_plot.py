"""Draw proposal recall: over IoU for several numbers of boxes, and over the number of boxes."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from weaksam.config import UserError, listed
from weaksam.evaluation.recall import AR_IOUS
from weaksam.evaluation.recall_files import CURVE, IOUS, RecallReport
from weaksam.report.pictures import colour_of
from weaksam.store.files import atomic_file

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
STYLES = ("-", "--", ":")
"""Line styles: solid, dashed, dotted."""
OVER_IOU = (None, 100, 10)
"""Numbers of boxes whose recall is drawn over IoU, in the order of ``STYLES``; None: all."""


def check_plot(path: Path) -> None:
    """`UserError` where the name of ``path`` cannot be that of a plot, to be asked before anything is measured."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise UserError(f"wanted a plot named {listed(PLOT_SUFFIXES)}, found {path}: rename it")


def write_plot(path: Path, report: RecallReport) -> None:
    """Write both curves of every set of proposals, one colour a set; ``report`` was measured with ``curve=True``."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _over_iou(left, report)
    _over_boxes(right, report)
    for axes in (left, right):
        axes.set_ylim(0, 1.01)
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("recall")
    if len(report.sets) > 1:
        handles = [Line2D([], [], color=colour_of(index), lw=2, label=name) for index, name in enumerate(report.sets)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5), frameon=False)
    else:
        figure.suptitle(f"{next(iter(report.sets))}: {next(iter(report.sets.values())).boxes}", fontsize=10)
    figure.supxlabel(textwrap.fill(str(report.first.protocol), 170), fontsize=7, color="#606060")
    save_plot(figure, path)


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the name of ``path`` says, see `check_plot`."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format=path.suffix[1:].lower())


def _over_iou(axes: Axes, report: RecallReport) -> None:
    """Recall over IoU: a line per set and number of boxes."""
    for index, measured in enumerate(report.sets.values()):
        for count, style in zip(OVER_IOU, STYLES, strict=True):
            values = [measured.result.at(iou, count) for iou in AR_IOUS]
            axes.plot(AR_IOUS, values, style, color=colour_of(index), lw=1.8, marker="o", ms=2.5)
    axes.set_xlabel("IoU that a box must reach")
    labels = ["all boxes", *(f"{count} boxes" for count in OVER_IOU[1:])]
    _legend(axes, labels)


def _over_boxes(axes: Axes, report: RecallReport) -> None:
    """Recall over the number of boxes: a line per set and IoU, as far as the set has boxes."""
    for index, measured in enumerate(report.sets.values()):
        counts = [count for count in CURVE if count < measured.max_boxes]
        for iou, style in zip(IOUS, STYLES, strict=True):
            values = [measured.result.at(iou, count) for count in [*counts, None]]
            axes.plot([*counts, max(measured.max_boxes, 1)], values, style, color=colour_of(index), lw=1.8)
    axes.set_xscale("log")
    axes.set_xlabel("boxes per image")
    max_boxes = max(measured.max_boxes for measured in report.sets.values())
    ticks = [count for count in (1, 10, 100, 1000) if count <= max_boxes] or [1]
    axes.set_xticks(ticks, list(map(str, ticks)))
    _legend(axes, [f"IoU {iou:g}" for iou in IOUS], loc="upper left")


def _legend(axes: Axes, labels: list[str], loc: Literal["upper right", "upper left"] = "upper right") -> None:
    """A legend of the line styles, in grey, since the colour means the set."""
    handles = [
        Line2D([], [], color="#404040", ls=style, label=label) for style, label in zip(STYLES, labels, strict=True)
    ]
    axes.legend(handles=handles, loc=loc, frameon=False, fontsize=9)
