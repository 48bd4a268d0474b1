"""Run the stages of the plan, all or some of them, and measure each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weaksam.config import UserError, fingerprint_of, settings_from
from weaksam.data.dataset import gives_tags
from weaksam.engine.distributed import this_process, training_together, unused_rank
from weaksam.engine.helper_processes import helped_by
from weaksam.evaluation import clue_figures
from weaksam.evaluation.truth import Truth
from weaksam.models.ranks import ranks
from weaksam.pipeline.example_picture import draw_example
from weaksam.pipeline.measuring import peaks_and_maps, summarise
from weaksam.pipeline.outcome import write_outcome
from weaksam.pipeline.owning import joining, owning
from weaksam.pipeline.plan import CEILINGS, STAGES, Stage, stage_named
from weaksam.pipeline.ray.dispatch import RayActors, ray_actors
from weaksam.pipeline.ray.settings import ActorSettings
from weaksam.pipeline.settings import RunSettings, without_tags
from weaksam.pipeline.state import CEILING, Run, open_run, refuse_newer, refuse_older, require_finished, require_usable
from weaksam.pipeline.summary import StageReport
from weaksam.pipeline.threads import thread_notes
from weaksam.stages import STAGE_NAMES
from weaksam.store.part_helpers import filled_by
from weaksam.store.progress import clock
from weaksam.store.records import HASH_KEY, read_record, read_written_json
from weaksam.terminal import say, silence

POLL_SECONDS = 1.0
"""How often a worker process looks whether the stage before is finished."""


def run(
    settings: RunSettings, start: str | None = None, until: str | None = None, actors: ActorSettings | None = None
) -> dict[str, Any]:
    """Run the stages from ``start`` to ``until`` (all by default), then write metrics, record and report.

    With ``actors`` a Ray cluster computes what is computed photo by photo. Finished stages are not computed again. With
    ``start`` the stages before it must be finished: `UserError` otherwise. Returns the content of ``OUT/metrics.json``.
    Proposals alone are made without tags too, from the grid.
    """
    return run_stages(settings, start, until, actors)[1]


def run_stages(
    settings: RunSettings, start: str | None, until: str | None, actors: ActorSettings | None = None
) -> tuple[Run, dict[str, Any]]:
    """`run`, with the results of its stages beside the metrics; these are empty in a worker process."""
    for name in (start, until):
        if name is not None and name not in STAGE_NAMES:
            raise UserError(f"wanted a stage ({', '.join(STAGE_NAMES)}), found {name!r}: name one of them")
    if until == "proposals" and not gives_tags(settings.data.train):
        settings = without_tags(settings)
    photos_alone = settings.data.without_tags
    if photos_alone and until != "proposals":
        raise UserError("wanted tags for all but proposals, found data.without_tags=true: remove it, or stop there")
    require_usable(settings)
    wanted = STAGE_NAMES[: STAGE_NAMES.index(until) + 1] if until else STAGE_NAMES
    if photos_alone:
        wanted = ("proposals",)
    before = STAGE_NAMES[: STAGE_NAMES.index(start)] if start and not photos_alone else ()
    launch = this_process()
    if launch.rank > 0 and not launch.trains_along:
        opened = open_run(settings)
        work(opened, [stage for stage in STAGES if stage.name in wanted])
        return opened, {}
    if note := unused_rank():
        say(note, error=True)
    with training_together(launch, settings.out, fingerprint_of(settings)):
        return _lead(settings, before, wanted, actors) if ranks().first else _follow(settings)


def _lead(
    settings: RunSettings, before: Sequence[str], wanted: Sequence[str], actors: ActorSettings | None = None
) -> tuple[Run, dict[str, Any]]:
    """Run the ``wanted`` stages and those that are finished, measure them, write the outcome and return it."""
    with owning(settings):
        opened = open_run(settings)
        ranks().wait()  # the others need not read the photos that this one has just written down as read
        require_same_photos(opened)
        require_enough_photos(opened, settings.workers, "workers")
        require_finished(opened, before)
        stages = [stage for stage in STAGES if stage.name in wanted or opened.finished(stage.name)]
        if settings.ceiling:
            stages += [stage for stage in _possible_ceilings(opened) if stage.name.removesuffix(CEILING) in wanted]
        ranks().from_first([stage.name for stage in stages])
        with _filled_by_actors(opened, actors) as helpers:
            reports = [_make(opened, stage, helpers) for stage in stages]
        outcome = write_outcome(opened, reports)
        ranks().wait()
        return opened, outcome


@contextlib.contextmanager
def _filled_by_actors(run: Run, actors: ActorSettings | None) -> Iterator[RayActors | None]:
    """Let Ray actors fill the stores in the block; None, and nothing else, without ``actors``."""
    if actors is None:
        yield None
        return
    require_enough_photos(run, actors.num, "Ray actors")
    with ray_actors(run.settings, actors, run.most_parts) as helpers, filled_by(helpers):
        yield helpers


def _follow(settings: RunSettings) -> tuple[Run, dict[str, Any]]:
    """Run the stages that the first process runs: train along and fill stores; report nothing."""
    ranks().wait()  # until the folder is the first one's and clean, and it has read the photos
    with joining(settings, lambda: False), silence():
        opened = open_run(settings)
        require_same_photos(opened)
        for name in ranks().from_first(None):
            stage_named(name).run(opened)
        ranks().wait()
    return opened, {}


def require_same_photos(run: Run) -> None:
    """`UserError` where processes that train together read other photos, or are more than there are photos."""
    photos = run.context.train
    prints = ranks().of_all(photos.fingerprint)
    if len(set(prints)) > 1:
        others = ", ".join(str(rank) for rank, fingerprint in enumerate(prints) if fingerprint != prints[0])
        raise UserError(
            f"wanted the same training photos and tags in all {len(prints)} processes, found others in process "
            f"{others}: put data on a disk that all machines share, or the same files on each"
        )
    require_enough_photos(run, ranks().size, "processes")


def require_enough_photos(run: Run, num: int | None, what: str) -> None:
    """`UserError` where ``num`` workers of the kind ``what`` are more than there are training photos."""
    photos = len(run.context.train)
    if num is not None and num > max(1, photos):
        raise UserError(f"wanted at most as many {what} as training photos, found {num} for {photos}: start fewer")


def rewrite_report(out: Path) -> dict[str, Any]:
    """Measure the finished stages of the run in ``out`` again and write its metrics and report anew.

    Raises `UserError` where there is no run that has ended, one of another version, or its photos are others now.
    """
    settings = recorded_settings(out)
    with owning(settings):
        run = open_run(settings)
        require_recorded_photos(run)
        return write_outcome(run, [_make(run, stage) for stage in (*STAGES, *CEILINGS) if run.finished(stage.name)])


def recorded_settings(out: Path) -> RunSettings:
    """The settings that the run in the folder ``out`` was made with; `UserError` where there is none."""
    path = out / "run.json"
    if not path.is_file():
        begun = [name for name in STAGE_NAMES if (out / name).is_dir()]
        if begun:
            raise UserError(
                f"wanted a run that has ended, found one in {out} that is under way or was stopped in {begun[-1]}: run "
                "its command again, which goes on where it stopped"
            )
        raise UserError(f"wanted the folder of a run, found no run.json in {out}: name the folder given as out=")
    refuse_older(out)
    refuse_newer(out)
    settings = (read_record(path) or {}).get("settings")
    if not isinstance(settings, dict):
        raise UserError(
            f"wanted the record of a run in {path}, found a damaged or edited file: run 'weaksam run' again with the "
            "settings of that run, which finds its stages finished and writes the record anew (an edited record is "
            f"read once its entry {HASH_KEY} is removed)"
        )
    return settings_from(RunSettings, settings, str(path)).model_copy(update={"out": out})


def require_recorded_photos(run: Run) -> None:
    """`UserError` where the photos or tags of the run are not those that its record names: gone or changed since."""
    recorded = (read_record(run.context.out / "run.json") or {}).get("hashes", {})
    for name in ("train photos and tags", "test photos"):
        if name in recorded and recorded[name] != run.inputs[name]:
            split = name.split()[0]
            num_now = len(run.splits[split]) if split in run.splits else 0
            metrics = read_written_json(run.context.out / "metrics.json")
            images = metrics.get("images") if isinstance(metrics, dict) else None
            num_before = images.get(split, "others") if isinstance(images, dict) else "others"
            raise UserError(
                f"wanted the {split} photos and tags of the run in {run.context.out} as they were ({num_before}), "
                f"found others ({num_now}): put them back, or run the command of the run again, which makes anew what "
                "depends on them"
            )


def measure_clues(out: Path) -> tuple[clue_figures.ClueFigures, tuple[str, ...]]:
    """Figures of the clues of the run in ``out``, and its classes; `UserError` where they or the truth are missing."""
    run = open_run(recorded_settings(out))
    truth = _require_truth(run.truths["train"])
    require_finished(run, ["clues"])
    stage_named("clues").run(run)
    return clue_figures.measure_clues(truth, *peaks_and_maps(run)), run.context.train.classes


def _require_truth(truth: Truth | None) -> Truth:
    """The truth of the training photos; `UserError` where there is none."""
    if truth is None:
        raise UserError("wanted the true boxes of the training photos to measure by, found none: set data.train.truth")
    return truth


def work(run: Run, stages: Sequence[Stage]) -> None:
    """Helper of a run on its machine: help to fill the stores of each shared stage, once those before it are finished.

    It trains, measures and reports nothing, and ends where the run's first process dies.
    """

    def finished() -> bool:
        return all(run.finished(stage.name) for stage in stages if stage.shared)

    with joining(run.settings, finished):
        for number, stage in enumerate(stages):
            if not stage.shared:
                continue
            for before in stages[:number]:
                if not run.finished(before.name):
                    say(f"process {this_process().rank} waits for {before.name}, which the first process works on")
                while not run.finished(before.name):
                    time.sleep(POLL_SECONDS)
                before.run(run)
            stage.run(run)


def _make(run: Run, stage: Stage, actors: RayActors | None = None) -> StageReport:
    """Compute what is missing of ``stage``, measure it, and say so on the terminal."""
    finished = run.finished(stage.name)
    if actors is not None:
        actors.begin(stage.name)
    shared = stage.shared and not finished and actors is None and not this_process().together
    workers = run.num_workers - 1 if shared else 0
    with helped_by(workers, start_worker, run.settings.model_copy(update={"threads": None}), stage.name):
        run.timed(stage.name, lambda: stage.run(run))
    for note in thread_notes(run, stage):
        say(note, error=True)
        run.context.log.write("threads", stage=stage.name, note=note)
        run.notes.append(note)
    summary = summarise(run, stage)
    seconds = run.note(stage.name)["seconds"]
    when = "finished before" if finished else clock(seconds)
    say(f"{stage.name}: {summary.made}; {summary.quality} ({when})", style="green")
    if not finished and not stage.name.endswith(CEILING):
        draw_example(run)
    return StageReport(stage.name, *summary[:2], seconds=seconds, figures=summary.figures)


def start_worker(settings: RunSettings, until: str) -> None:
    """Entry point of a worker process: help with the stages up to ``until``."""
    run(settings, until=until)


def _possible_ceilings(run: Run) -> tuple[Stage, ...]:
    """The ceilings that the truth of the training photos allows: boxes, or boxes and masks."""
    train = run.truths["train"]
    if train is None:
        raise UserError(
            "wanted the true boxes of the training photos for ceiling=true, found none: set data.train.truth"
        )
    return tuple(stage for stage in CEILINGS if train.has_masks or stage.name != "wsis_ceiling")
