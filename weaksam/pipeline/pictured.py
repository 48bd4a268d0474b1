"""Collect what a run's stages made for the page: their results, the losses of their trainings, drawn diagnoses."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from weaksam.data.detection_stores import instances_of
from weaksam.pipeline.measuring import detections_by_split, train_boxes
from weaksam.pipeline.state import ROI_DROP, Run
from weaksam.report.drawn_photos import Picture
from weaksam.report.gallery import StageResults
from weaksam.report.insights import WEAK
from weaksam.stages import clues
from weaksam.stages.retrain import RetrainResult
from weaksam.store.records import read_record
from weaksam.structures.instances import Instances

RETRAINED = "retrained or merged"
DETECTORS = {WEAK: "weak_detector", RETRAINED: "detector"}
"""The outputs whose detections are compared, by title: before and after retraining."""


def pictured(run: Run) -> StageResults:
    """What the page can show: the results of the stages that ran."""
    results = run.results
    masks = results["instance_segmenter"].pseudo_masks if "instance_segmenter" in results else None
    by_split = {title: detections_by_split(results[name]) for title, name in DETECTORS.items() if name in results}
    segmented = detections_by_split(results["instance_segmenter"]) if "instance_segmenter" in results else {}
    has_proposals = "proposals" in results
    return StageResults(
        train=run.context.train,
        test=run.context.test,
        truths=run.truths,
        peaks=clues.clue_peaks(results["clues"]) if "clues" in results else None,
        maps=clues.kind_maps(results["clues"]) if "clues" in results else None,
        proposals=train_boxes(run) if has_proposals else None,
        pseudo_gt=results.get("pseudo_gt"),
        pseudo_masks=None if masks is None else instances_of(masks),
        detections={title: of["test"] for title, of in by_split.items() if "test" in of},
        sources=results["proposals"]["train"].column("sources") if has_proposals else None,
        weak_train=by_split.get(WEAK, {}).get("train"),
        train_detections=_network_on_train(run),
        segmented=segmented.get("test"),
        histories=histories(run),
        held_out_tags=run.held_out_tags,
        labels_key=run.key("pseudo_gt") if "pseudo_gt" in results else "",
    )


def _network_on_train(run: Run) -> dict[str, Mapping[str, Instances]]:
    """What the retrained network itself detects on the training photos, where it does; a second look at the labels."""
    detector = run.results.get("detector")
    if not isinstance(detector, RetrainResult) or "train" not in detector.network_stores:
        return {}
    return {"retrained network": instances_of(detector.network_stores["train"])}


def histories(run: Run) -> dict[str, Sequence[Mapping[str, float]]]:
    """The mean losses by epoch of every training of the run, by what was trained; those without an epoch left out."""
    results, folders = run.results, {}
    if "backbone" in results:
        folders["tag classifier"] = Path(str(results["backbone"].weights))
    for title, name in {**DETECTORS, "instance segmenter": "instance_segmenter"}.items():
        if name in results:
            folders[{RETRAINED: "retrained network"}.get(title, title)] = results[name].weights
    of_trainings = {name: _history(path) for name, path in folders.items()}
    return {name: history for name, history in of_trainings.items() if history}


def _history(weights: Path) -> Sequence[Mapping[str, float]]:
    """The history in the manifest beside sealed ``weights``; empty where there is none."""
    record = read_record(weights.with_name("manifest.json")) or {}
    history = record.get("history", [])
    return history if isinstance(history, list) and all(isinstance(epoch, dict) for epoch in history) else []


def drawn_diagnoses(out: Path) -> list[Picture]:
    """The pictures of RoI drop that `weaksam roi-drop plot` drew for the run in ``out``, for the page."""
    return [
        Picture(
            f"RoI drop: errors of the regions of {path.stem} by their loss (weaksam roi-drop plot)",
            "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(),
        )
        for path in (out / ROI_DROP / "retrain.png", out / ROI_DROP / "wsis.png")
        if path.is_file()
    ]
