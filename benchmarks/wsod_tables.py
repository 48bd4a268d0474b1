"""Compare weak detectors on one data set: rules of seeding, numbers of branches, sources of proposals; three seeds.

    python benchmarks/wsod_tables.py benchmarks/configs/fruit3.yaml --out work_dirs/tables/fruit3 [key=value ...]
    python benchmarks/wsod_tables.py benchmarks/configs/fruit3.yaml --out work_dirs/tables --given TRAIN TEST
    python benchmarks/wsod_tables.py CONFIG --out DIR --only oicr mist --branches 1 3

Frozen features are read once and shared by all variants; each variant and seed is an ordinary WSOD stage below
``--out``, so that an interrupted benchmark resumes. ``--given`` adds a second source: finished stores of proposals,
such as those of benchmarks/selective_search.py, at the same count as the segmenter's. Tags only; true boxes are read
by the evaluation alone. Prints markdown: mean and sample standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weaksam.config import load_settings
from weaksam.data.detection_stores import instances_of
from weaksam.evaluation.stage_summaries import wsod_summary
from weaksam.pipeline.plan import STAGES, with_backbone
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import Run, open_run
from weaksam.stages import clues, wsod
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.photo_features import PhotoFeatures, unread_features
from weaksam.stages.wsod.seeds.class_maps import ClassMapSeedSettings
from weaksam.stages.wsod.seeds.mist import MistSettings
from weaksam.stages.wsod.seeds.oicr import OicrSettings, OicrTopSettings
from weaksam.stages.wsod.seeds.pcl import PclSettings
from weaksam.stages.wsod.seeds.scores import ScoresSettings

VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "class maps alone": {"seeds": ClassMapSeedSettings()},
    "scores": {"seeds": ScoresSettings()},
    "oicr_top": {"seeds": OicrTopSettings()},
    "oicr": {"seeds": OicrSettings()},
    "mist": {"seeds": MistSettings()},
    "mist_boxes": {"seeds": MistSettings(), "box_regression": True},
    "mist_drop": {"seeds": MistSettings(), "box_regression": True, "background_column": True, "drop_block": True},
    "mist_kept": {"seeds": MistSettings(compare="kept")},
    "pcl": {"seeds": PclSettings()},
}
"""Rule by rule, what it changes in the settings of the config; ``drop_block`` is one of the end-to-end mode."""
FROZEN = [name for name in VARIANTS if name != "mist_drop"]
"""The variants of frozen features."""
FIGURES = {
    "test AP50": ("test_boxes", "mean", "0.5"),
    "test AP75": ("test_boxes", "mean", "0.75"),
    "test AP .5:.95": ("test_boxes", "average"),
    "train CorLoc": ("train_corloc", "mean"),
}


def opened(config: Path, overrides: list[str]) -> Run:
    """A run whose clues and proposals are made; its context has the backbone that the tags may have trained."""
    run = open_run(load_settings(RunSettings, config, overrides))
    for stage in STAGES[:2]:
        run.timed(stage.name, lambda stage=stage: stage.run(run))
    run.context = with_backbone(run, run.results["backbone"])
    return run


def measured(run: Run, settings: WsodSettings, seed: int, photos: PhotoFeatures, ceiling: bool) -> dict[str, Any]:
    """The figures of one weak detector, trained on tags or, as a ceiling, on the true boxes."""
    clue_store = run.results["clues"]
    context, stores = replace(run.context, seed=seed), run.results["proposals"]
    more = {"truths": run.true_train.truths, "name": "wsod_ceiling"} if ceiling else {}
    result = wsod.run(context, settings, stores, clue_store, clues.class_maps(clue_store), photos=photos, **more)
    detections = {split: instances_of(store) for split, store in result.stores.items()}
    boxes = run.results["proposals"]["train"].column("boxes")
    return wsod_summary(run.truths, detections, boxes, run.settings.evaluation, "").figures


def settings_of(base: WsodSettings, values: Mapping[str, Any], branches: int) -> WsodSettings:
    """The settings of the config with those of a variant."""
    values = dict(values)
    if drop_block := values.pop("drop_block", False):
        values["end_to_end"] = base.end_to_end.model_copy(update={"drop_block": drop_block})
    return base.model_copy(update={**values, "num_branches": branches})


def at(figures: Mapping[str, Any], path: tuple[str, ...]) -> float:
    """One figure."""
    value: Any = figures
    for key in path:
        value = value[key]
    return float(value)


def cell(values: list[float]) -> str:
    """Mean and spread."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def print_rows(run: Run, source: str, options: argparse.Namespace) -> None:
    """A row for each variant and number of branches, the ceiling last, and the baselines beside CorLoc."""
    base = run.settings.wsod
    photos = unread_features(run.context, base)
    photos.fit_projection(run.context.train, min(base.reduced, sum(photos.network.channels.values())))
    rows = [(name, values, branches, False) for name, values in VARIANTS.items() for branches in options.branches]
    rows = [row for row in rows if row[0] in options.only]
    if not options.no_ceiling:
        rows += [("true boxes", {}, 3, True)]
        rows += [("true boxes, moved", {"box_regression": True}, 3, True)] * options.moved
    figures: dict[str, Any] = {}
    for name, values, branches, ceiling in rows:
        settings = settings_of(base, values, branches)
        seeds = [measured(run, settings, seed, photos, ceiling) for seed in options.seeds]
        cells = [cell([at(each, path) for each in seeds]) for path in FIGURES.values()]
        each = " / ".join(f"{at(seed, FIGURES['test AP50']):.3f}" for seed in seeds)
        print(f"| {source} | {name} | {branches} | {' | '.join(cells)} | {each} |", flush=True)
        figures = seeds[0]
    beside = [f"{name} {at(figures, (f'train_corloc_{name}', 'mean')):.3f}" for name in ("largest", "whole", "random")]
    print(f"beside CorLoc, {source}: {', '.join(beside)}")


def main() -> None:
    """Print a table for each source of proposals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only", nargs="+", choices=list(VARIANTS), default=[name for name in VARIANTS if name != "mist_drop"]
    )
    parser.add_argument("--branches", type=int, nargs="+", default=[3])
    parser.add_argument("--given", type=Path, nargs=2, metavar=("TRAIN", "TEST"), help="stores of other proposals")
    parser.add_argument("--no-ceiling", action="store_true", help="leave out the training on true boxes")
    parser.add_argument("--moved", action="store_true", help="add a ceiling whose boxes move")
    options = parser.parse_intermixed_args()
    overrides = [f"out={options.out}", *options.overrides]
    print(f"| proposals | rule | branches | {' | '.join(FIGURES)} | AP50 by seed |\n|---|---|---|---|---|---|---|---|")
    print_rows(opened(options.config, overrides), "segmenter", options)
    if options.given is not None:
        stores = [
            f"proposals.given.{split}={path}" for split, path in zip(("train", "test"), options.given, strict=True)
        ]
        print_rows(opened(options.config, overrides + stores), "given", options)


if __name__ == "__main__":
    main()
