"""Run the stages or a part of them, measure each, and write the run's metrics, record and report."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.data.detection_stores import instances_of
from weaksam.data.loading import gives_tags
from weaksam.engine.distributed import helped_by, worker_rank
from weaksam.evaluation import clue_figures as clue_report
from weaksam.pipeline.plan import (
    CEILINGS,
    STAGES,
    Stage,
    detection_stores,
    make_clues,
    peaks_and_maps,
    train_boxes,
)
from weaksam.pipeline.record import run_record
from weaksam.pipeline.settings import RunSettings, without_tags
from weaksam.pipeline.state import STAGE_NAMES, Run, open_run, require_finished
from weaksam.pipeline.summary import StageReport, metrics_dict, summary_text
from weaksam.report.gallery import StageResults, galleries
from weaksam.report.page import Page
from weaksam.stages import clues
from weaksam.store.files import write_json_atomic

POLL_SECONDS = 1.0
"""How often a process that lends a hand looks whether the stage before is finished."""


def run(settings: RunSettings, start: str | None = None, until: str | None = None) -> dict[str, Any]:
    """Run the stages from ``start`` to ``until`` (all by default), then write metrics, record and report.

    Finished stages are not computed again. With ``start`` the stages before it must be finished: `UserError`
    otherwise. Returns the content of ``OUT/metrics.json``. Proposals alone are made without tags too, from the grid.
    """
    for name in (start, until):
        if name is not None and name not in STAGE_NAMES:
            raise UserError(f"wanted a stage ({', '.join(STAGE_NAMES)}), found {name!r}: name one of them")
    if until == "proposals" and not gives_tags(settings.data.train):
        settings = without_tags(settings)
    photos_alone = settings.data.without_tags
    if photos_alone and until != "proposals":
        raise UserError("wanted tags for all but proposals, found data.without_tags=true: remove it, or stop there")
    one = open_run(settings)
    wanted = STAGE_NAMES[: STAGE_NAMES.index(until) + 1] if until else STAGE_NAMES
    if photos_alone:
        wanted = ("proposals",)
    elif start:
        require_finished(one, STAGE_NAMES[: STAGE_NAMES.index(start)])
    if worker_rank() > 0:
        return _lend_a_hand(one, [stage for stage in STAGES if stage.name in wanted])
    stages = [stage for stage in STAGES if stage.name in wanted or one.finished(stage.name)]
    if settings.ceiling:
        stages += [stage for stage in _possible_ceilings(one) if stage.name.removesuffix("_ceiling") in wanted]
    return _finish(one, [_make(one, stage) for stage in stages])


def rewrite_report(out: Path) -> dict[str, Any]:
    """Measure the finished stages of the run in ``out`` again and write its metrics and report anew."""
    one = _reopened(out)
    return _finish(one, [_make(one, stage) for stage in (*STAGES, *CEILINGS) if one.finished(stage.name)])


def _reopened(out: Path) -> Run:
    """The run in the folder ``out`` with the settings it was made with; `UserError` where there is none."""
    path = out / "run.json"
    if not path.is_file():
        raise UserError(f"wanted the folder of a run, found no run.json in {out}: name the folder given as out=")
    record = json.loads(path.read_text(encoding="utf-8"))
    return open_run(RunSettings.model_validate(record["settings"]).model_copy(update={"out": out}))


def measure_clues(out: Path) -> tuple[clue_report.ClueFigures, tuple[str, ...]]:
    """Figures of the clues of the run in ``out``, and its classes; `UserError` where they or the truth are missing."""
    one = _reopened(out)
    truth = clue_report.require_truth(one.truths["train"])
    require_finished(one, ["clues"])
    one.results["clues"] = make_clues(one)
    return clue_report.measure_clues(truth, *peaks_and_maps(one)), one.context.train.classes


def _lend_a_hand(one: Run, stages: Sequence[Stage]) -> dict[str, Any]:
    """What a process beside the first one does: share the work of the stores, once what they read is there.

    Training is the first process's alone, which also measures and reports. Returns nothing to report.
    """
    for stage in stages:
        if not stage.shared:
            continue
        for name in (before.name for before in stages[: stages.index(stage)]):
            while not one.finished(name):
                time.sleep(POLL_SECONDS)
            one.results[name] = next(other for other in STAGES if other.name == name).make(one)
        one.results[stage.name] = stage.make(one)
    return {}


def _make(one: Run, stage: Stage) -> StageReport:
    """Compute what is missing of ``stage``, measure it, and say so on the terminal."""
    finished = one.finished(stage.name)
    print(f"{stage.name}: {'finished before' if finished else 'begins'}", flush=True)
    helpers = one.num_workers - 1 if stage.shared and not finished and "RANK" not in os.environ else 0
    with helped_by(helpers, run, one.settings.model_copy(update={"threads": None}), None, stage.name):
        one.results[stage.name] = one.timed(stage.name, lambda: stage.make(one))
    summary = stage.report(one)
    print(f"{stage.name}: {summary.made}; {summary.quality}", flush=True)
    return StageReport(stage.name, *summary[:2], seconds=one.note(stage.name)["seconds"], figures=summary.figures)


def _possible_ceilings(one: Run) -> tuple[Stage, ...]:
    """The ceilings that the truth of the training photos allows: boxes, or boxes and masks."""
    train = one.truths["train"]
    if train is None:
        raise UserError(
            "wanted the true boxes of the training photos for ceiling=true, found none: set data.train.truth"
        )
    return tuple(stage for stage in CEILINGS if train.has_masks or stage.name != "wsis_ceiling")


def _finish(one: Run, made: list[StageReport]) -> dict[str, Any]:
    """Write ``metrics.json``, ``run.json`` and ``report.html``, and print the table."""
    out, settings = one.context.out, one.settings
    metrics = metrics_dict(
        name=out.name,
        classes=one.context.train.classes,
        reports=made,
        images={split: len(dataset) for split, dataset in one.splits.items()},
        bad={split: dataset.bad for split, dataset in one.splits.items()},
        note=_note(one),
        peak_memory_mib=max((one.note(report.stage)["peak_memory_mib"] for report in made), default=0),
    )
    keys = {f"stage {report.stage}": one.key(report.stage) for report in made}
    record = run_record(settings, one.context.device, {**one.inputs, **keys})
    write_json_atomic(out / "metrics.json", metrics, indent=1)
    write_json_atomic(out / "run.json", record, indent=1)
    Page(metrics, record, galleries(_shown(one))).write(out / "report.html")
    one.context.log.write("run ends", stages=[report.stage for report in made])
    print(f"\n{summary_text(metrics)}\n", flush=True)
    for split, store in one.results.get("proposals", {}).items():
        print(f"proposals of {split}: {store.folder}")
    print(f"report: {out / 'report.html'}", flush=True)
    return metrics


def _shown(one: Run) -> StageResults:
    """What the gallery can draw: the results of the stages that ran."""
    results = one.results
    titles = {"WSOD": "wsod", "retrained": "retrain", "masks": "wsis"}
    found = {title: detection_stores(results[name]) for title, name in titles.items() if name in results}
    return StageResults(
        train=one.context.train,
        test=one.context.test,
        truths=one.truths,
        peaks=clues.clue_peaks(results["clues"]) if "clues" in results else None,
        maps=clues.kind_maps(results["clues"]) if "clues" in results else None,
        proposals=train_boxes(one) if "proposals" in results else None,
        pseudo_gt=results.get("pseudo_gt"),
        pseudo_masks=instances_of(results["wsis"].pseudo_masks) if "wsis" in results else None,
        detections={title: instances_of(stores["test"]) for title, stores in found.items() if "test" in stores},
    )


def _note(one: Run) -> str | None:
    """What could not be evaluated, and why; None where both splits were."""
    if one.settings.proposals.given.folders and one.settings.data.without_tags:
        return "No tags were given: the proposals are those of the given stores."
    if one.settings.data.without_tags:
        name = one.segmenter.name
        better = "; give --sam for real work" if one.settings.segmenter.weights is None else ""
        return f"No tags were given: the grid alone prompted the segmenter {name}{better}."
    train, test = one.truths["train"], one.truths["test"]
    if test is not None:
        return None if train is not None else "The training photos have no truth: their labels were not evaluated."
    missing = "there is no test split" if one.context.test is None else "the test split has no truth"
    if train is None:
        return (
            f"Nothing was evaluated: {missing}, and the training photos have no truth; they were labelled all the same."
        )
    return f"The detectors were not evaluated: {missing}; the labels of the training photos were."
