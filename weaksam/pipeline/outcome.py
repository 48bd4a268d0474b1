"""Write what a run leaves behind: ``metrics.json``, ``run.json``, ``report.html``, and the table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weaksam.pipeline.pictured import drawn_diagnoses, pictured
from weaksam.pipeline.record import run_record
from weaksam.pipeline.state import Run
from weaksam.pipeline.summary import StageReport, metrics_dict, summary_text
from weaksam.report.gallery import galleries
from weaksam.report.insights import insights
from weaksam.report.page import Page
from weaksam.stages.retrain import RetrainResult
from weaksam.store.files import file_sha256, write_json_atomic
from weaksam.store.listed_files import FILES
from weaksam.store.records import write_record
from weaksam.terminal import say

OUTCOME_FILES = ("metrics.json", "report.html")
"""What a run writes beside its record, which holds their SHA-256."""


def write_outcome(run: Run, reports: Sequence[StageReport]) -> dict[str, Any]:
    """Write metrics, record and page of the stages in ``reports``, and print their table; returns the metrics."""
    out, settings = run.context.out, run.settings
    metrics = metrics_dict(
        name=out.name,
        classes=run.context.train.classes,
        reports=reports,
        images={split: len(dataset) for split, dataset in run.splits.items()},
        bad={split: dataset.bad for split, dataset in run.splits.items()},
        note=" ".join(filter(None, [unmeasured(run), *run.notes])) or None,
        peak_memory_mib=max((run.note(report.stage)["peak_memory_mib"] for report in reports), default=0),
        data_notes={split: dataset.notes for split, dataset in run.splits.items()} | {"pseudo_gt": run.given_notes},
    )
    keys = {f"stage {report.stage}": run.key(report.stage) for report in reports}
    record = {**run_record(settings, run.context.device, {**run.inputs, **keys}), "trained on": trained_on(run)}
    results = pictured(run)
    known = insights(results)
    metrics |= known.as_dict()
    write_json_atomic(out / "metrics.json", metrics, indent=1)
    page = Page(metrics, record, galleries(results), results, known, drawn_diagnoses(out))
    written = page.write(out / "report.html")
    files = {path.relative_to(out).as_posix(): file_sha256(path) for path in [out / "metrics.json", *written]}
    write_record(out / "run.json", {**record, FILES: files})
    run.context.log.write("run ends", stages=[report.stage for report in reports])
    say(f"\n{summary_text(metrics)}\n")
    for split, store in run.results.get("proposals", {}).items():
        say(f"proposals of {split}: {store.folder}")
    say(f"report: {out / 'report.html'}")
    return metrics


def trained_on(run: Run) -> dict[str, str]:
    """What the retrained network and the instance segmenter were trained on, in words, and where the network lies.

    Empty before the retraining.
    """
    detector = run.results.get("detector")
    if not isinstance(detector, RetrainResult):
        return {}
    boxes = "the pseudo ground truth of the weak detector or of a file (pseudo_gt/train.json)"
    if detector.rounds:
        boxes = f"the pseudo ground truth of round {detector.rounds}, from the detections chosen before it"
    trained = {"network": detector.weights.relative_to(run.context.out).as_posix(), "retrain": boxes}
    if "instance_segmenter" in run.results:
        trained["wsis"] = f"masks that the segmenter answers to {boxes}"
    return trained


def unmeasured(run: Run) -> str | None:
    """What could not be evaluated, and why; None where both splits were."""
    if run.settings.data.without_tags:
        return _without_tags(run)
    train, test = run.truths["train"], run.truths["test"]
    if test is not None:
        return None if train is not None else "The training photos have no truth: their labels were not evaluated."
    missing = "there is no test split" if run.context.test is None else "the test split has no truth"
    if train is None:
        return (
            f"Nothing was evaluated: {missing}, and the training photos have no truth; they were labelled all the same."
        )
    return f"The detectors were not evaluated: {missing}; the labels of the training photos were."


def _without_tags(run: Run) -> str:
    if run.settings.proposals.given.folders:
        return "No tags were given: the proposals are those of the given stores."
    better = "; give --sam for real work" if run.settings.segmenter.weights is None else ""
    return f"No tags were given: the grid alone prompted the segmenter {run.segmenter.name}{better}."
