"""Draw average precision over the IoU that a detection must reach."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weaksam.config import UserError, listed
from weaksam.evaluation.text import ap_by_iou, number
from weaksam.report.pictures import colour_of
from weaksam.report.recall_plot import save_plot

MOST_CLASSES = 12
"""With more classes their curves would cover the mean's, and are not drawn."""
TITLES = {
    "voc": "VOC AP, all-point",
    "voc11": "VOC AP, 11-point",
    "coco": "COCO AP",
    "mask": "VOC AP of masks",
    "mask_coco": "COCO AP of masks",
    "boundary": "VOC AP of boundaries",
    "boundary_coco": "COCO AP of boundaries",
}
"""What the figures that have AP by IoU are called above their curves."""


def drawable(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """AP by IoU of the figures that have it, by name; `UserError` where none has."""
    curves = {name: ap_by_iou(values) for name, values in figures.items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        raise UserError(
            f"wanted AP by IoU to draw, found none in the metrics {listed(figures)}: name one of {listed(TITLES)} in "
            "--metrics"
        )
    return curves


def write_ap_plot(path: Path, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Write AP over IoU of every figure of `evaluate_files` that has it, side by side, VOC's classes in thin lines.

    AP is in [0, 1]; a mean that no class has is left out. Raises `UserError` as `drawable` does.
    """
    curves = drawable(figures)
    figure = Figure(figsize=(4.9 * len(curves) + 0.6, 4.8), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        _draw_classes(axes, figures[name])
        _draw_mean(axes, curve)
        three = (curve["0.5"], curve["0.75"], figures[name].get("average", figures[name].get("ap")))
        values = "AP50 {}, AP75 {}, AP .5:.95 {}".format(*map(number, three))
        axes.set_title(f"{TITLES.get(name, name)}\n{values}", fontsize=10)
        axes.set_xlabel("IoU that a detection must reach")
        axes.set_ylim(0, 1.01)
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        protocol = textwrap.fill(str(figures[name]["protocol"]), 92)
        axes.text(0, -0.16, protocol, transform=axes.transAxes, fontsize=6, color="#606060", va="top")
    panels[0].set_ylabel("average precision")
    save_plot(figure, path)


def _draw_mean(axes: Axes, curve: Mapping[str, float | None]) -> None:
    """The mean over the classes, a thick line."""
    points = {float(iou): value for iou, value in curve.items() if value is not None}
    axes.plot(list(points), list(points.values()), color="#202020", lw=2.2, marker="o", ms=3.5, label="mean")


def _draw_classes(axes: Axes, values: Mapping[str, Any]) -> None:
    """A thin line per class, where AP by IoU is known class by class and there are at most `MOST_CLASSES`."""
    per_class = values["per_class"]
    if not isinstance(per_class, Mapping) or len(values["classes"]) > MOST_CLASSES:
        return
    for label, class_name in enumerate(values["classes"]):
        curve = ap_by_iou({"mean": {iou: of_iou[label] for iou, of_iou in per_class.items()}})
        points = {float(iou): value for iou, value in curve.items() if value is not None}
        if points:
            axes.plot(list(points), list(points.values()), color=colour_of(label), lw=1.1, alpha=0.8, label=class_name)
