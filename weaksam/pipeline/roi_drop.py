"""Diagnose RoI drop on a run: errors of an early detector's regions by their loss, with thresholds proposed from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from weaksam.config import UserError
from weaksam.engine.detectors.early import EarlyDetector, foreground_regions
from weaksam.evaluation.roi_drop_figures import RoiDropFigures
from weaksam.evaluation.roi_drop_proposals import proposals
from weaksam.evaluation.roi_errors import dropped_by_epoch
from weaksam.pipeline.owning import owning
from weaksam.pipeline.plan import backbone_of_masks, stage_named, weights_for_masks, with_backbone
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.state import ROI_DROP, Run, open_run, require_finished
from weaksam.stages import retrain, wsis
from weaksam.store.files import file_sha256
from weaksam.store.listed_files import FILES
from weaksam.store.records import read_record, write_record

DetectorStage = Literal["retrain", "wsis"]


def plot_roi_drop(
    out: Path, share: float = 0.3, stage: DetectorStage = "retrain", picture: Path | None = None
) -> tuple[RoiDropFigures, Path]:
    """Measure the regions of the run in ``out`` after ``share`` of the training of ``stage``; returns the picture too.

    The early detector is trained in ``OUT/roi_drop`` unless it is there; nothing else of the run changes. The picture
    is ``OUT/roi_drop/<stage>.png`` by default, the figures lie beside it as JSON. Only this diagnosis reads the true
    boxes of the training photos. Raises `UserError`, also where there are none.
    """
    from weaksam.report.recall_plot import check_plot  # here, since matplotlib takes a while to import
    from weaksam.report.roi_drop_plot import write_roi_drop_plot

    if not 0 < share <= 1:
        raise UserError(f"wanted a share of the training above 0 and at most 1, found {share:g}: give --at 0.3")
    if stage not in ("retrain", "wsis"):
        raise UserError(f"wanted a stage that trains a detector (retrain or wsis), found {stage!r}: name one of them")
    picture = out / ROI_DROP / f"{stage}.png" if picture is None else picture
    check_plot(picture)
    settings = recorded_settings(out)
    with owning(settings.model_copy(update={"out": out / ROI_DROP})):
        figures = measure_roi_drop(open_run(settings), share, stage)
        write_roi_drop_plot(picture, figures)
        files = {FILES: {picture.name: file_sha256(picture)}}
        write_record(picture.with_suffix(".json"), {**figures.as_dict(), **files})
    return figures, picture


def measure_roi_drop(run: Run, share: float, stage: DetectorStage) -> RoiDropFigures:
    """Figures of an open run, see `plot_roi_drop`; `UserError` where a stage before is not finished."""
    if run.truths["train"] is None:
        raise UserError(
            "wanted the true boxes of the training photos to tell wrong pseudo boxes from right ones, found none: set "
            "data.train.truth"
        )
    before = ["clues", "proposals", "wsod", "pseudo_gt"] + (["retrain", "wsis"] if stage == "wsis" else [])
    require_finished(run, before)
    for name in before:
        stage_named(name).run(run)
    early = early_detector(run, share, stage)
    regions = foreground_regions(run.context, early, run.true_train.truths)
    return RoiDropFigures(stage, share, regions, proposals(regions), _dropped(run, stage))


def early_detector(run: Run, share: float, stage: DetectorStage) -> EarlyDetector:
    """The detector of ``stage`` after ``share`` of its training, in ``OUT/roi_drop``."""
    backbone = run.results["backbone"]
    if stage == "wsis":
        backbone = backbone_of_masks(run, backbone, run.results["detector"])
    context = replace(with_backbone(run, backbone), out=run.context.out / ROI_DROP)
    if stage == "retrain":
        if not isinstance(run.retrain, retrain.RetrainSettings):
            raise UserError(
                "wanted a run that retrains Faster R-CNN, whose regions are plotted, found retrain.detector="
                f"{run.retrain.detector}: give another run"
            )
        weak_detector = run.results["weak_detector"]
        return retrain.run_early(
            context,
            run.retrain,
            run.results["pseudo_gt"],
            share,
            weak_detector=weak_detector,
            proposals=run.results["proposals"],
            segmenter=lambda: run.mask_segmenter,
        )
    masks, weights = run.results["instance_segmenter"].pseudo_masks, weights_for_masks(run, run.results["detector"])
    settings = run.wsis
    if not isinstance(settings, wsis.WsisSettings):
        raise UserError(
            "wanted a run that trains Mask R-CNN, whose regions are plotted, found wsis.network="
            f"{settings.network}: give another run"
        )
    return wsis.run_early(context, settings, masks, share, weights, weak_detector=run.results["weak_detector"])


def _dropped(run: Run, stage: DetectorStage) -> dict[str, list[float]]:
    """The share dropped by epoch in the run's own training of ``stage``; empty where that is not finished."""
    if not run.finished(stage):
        return {}
    stage_named(stage).run(run)
    (output,) = stage_named(stage).outputs
    record = read_record(run.results[output].weights.with_name("manifest.json"))
    return dropped_by_epoch((record or {}).get("history", []))
