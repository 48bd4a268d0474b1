"""Make the charts of the page: recall of proposals, precision over recall, AP by IoU, losses and RoI drop by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weaksam.evaluation.recall import AR_IOUS
from weaksam.evaluation.roi_errors import dropped_by_epoch
from weaksam.evaluation.text import ap_by_iou
from weaksam.report.charts import Chart
from weaksam.report.insights import Insights
from weaksam.report.tables import DETECTORS, figures_of

OVER_IOU = {10: "10 a photo", 100: "100 a photo", None: "all proposals"}
"""Numbers of proposals whose recall is drawn over IoU."""
OVER_COUNT = (0.5, 0.75, 0.9)
"""IoUs at which recall is drawn over the number of proposals."""


def charts(
    metrics: Mapping[str, Any], insights: Insights, histories: Mapping[str, Sequence[Mapping[str, float]]]
) -> Iterator[Chart]:
    """The charts that the run allows, in the order of the stages; those without a point are left out."""
    every = (
        *recall_charts(insights),
        ap_chart(metrics),
        *precision_charts(metrics["classes"], insights),
        *loss_charts(histories),
        *drop_charts(histories),
    )
    yield from (chart for chart in every if chart.drawn)


def recall_charts(insights: Insights) -> list[Chart]:
    """Recall of the training photos' proposals over IoU and over their number; nothing without a truth."""
    result = insights.recall
    if result is None:
        return []
    over_iou = {name: [(iou, result.at(iou, count)) for iou in AR_IOUS] for count, name in OVER_IOU.items()}
    most = max(result.num_proposals)
    counts = [count for count in result.counts if count is not None and count < most]
    over_count = {
        f"IoU {iou:g}": [*((count, result.at(iou, count)) for count in counts), (max(most, 1.0), result.at(iou))]
        for iou in OVER_COUNT
    }
    return [
        Chart("Proposal recall over IoU", over_iou, "IoU that a proposal must reach", "recall"),
        Chart("Proposal recall over their number", over_count, "proposals a photo", "recall", logarithmic=True),
    ]


def ap_chart(metrics: Mapping[str, Any]) -> Chart:
    """Mean AP on the test photos over IoU, a line per detector: before and after retraining, masks, ceilings."""
    lines = {}
    for title, stage, name in DETECTORS:
        curve = ap_by_iou(figures_of(metrics, stage).get(name) or {"mean": None})
        points = [(float(iou), value) for iou, value in curve.items() if value is not None]
        lines[title] = [(iou, value) for iou, value in points if iou >= AR_IOUS[0]]
    return Chart("AP on the test photos over IoU", lines, "IoU that a detection must reach", "AP")


def precision_charts(classes: Sequence[str], insights: Insights) -> list[Chart]:
    """Precision over recall on the test photos, a chart per detector and a line per class."""
    return [
        Chart(
            f"Precision over recall: {title}",
            {
                name: list(zip(curve.recall.tolist(), curve.precision.tolist(), strict=True))
                for name, curve in zip(classes, of_classes, strict=True)
            },
            "recall at IoU 0.5",
            "precision",
        )
        for title, of_classes in insights.curves.items()
    ]


def loss_charts(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Chart]:
    """Mean losses of every training by epoch; what RoI drop dropped is no loss."""
    return [
        Chart(
            f"Training losses: {name}",
            {
                term: [(float(epoch + 1), values[term]) for epoch, values in enumerate(history) if term in values]
                for term in (history[0] if history else {})
                if not term.startswith("dropped_")
            },
            "epoch",
            "mean loss",
            top=None,
        )
        for name, history in histories.items()
    ]


def drop_charts(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Chart]:
    """The share of foreground regions that RoI drop took out of each term, by epoch; nothing without RoI drop."""
    return [
        Chart(
            f"RoI drop: {name}",
            {
                term: [(float(epoch + 1), share) for epoch, share in enumerate(shares)]
                for term, shares in dropped_by_epoch(list(history)).items()
            },
            "epoch",
            "share of foreground regions dropped",
            top=None,
        )
        for name, history in histories.items()
    ]
