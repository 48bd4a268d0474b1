"""Measure CorLoc of finished runs on the third of the training photos that chose the seeding, and on the other two.

    python benchmarks/corloc_thirds.py work_dirs/quality/fruit3/seed0 work_dirs/quality/fruit3/seed1 ...

Every third photo of the sorted list (the first, the fourth, ...) had its true boxes read when the seeding of the weak
detector was chosen (docs/seeding.md); the photos between them chose nothing. Detections are those of
``OUT/wsod/detections_train.json``. Prints a row of markdown for each run and, for several, mean and sample deviation.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from weaksam.data.detection_files import read_detections
from weaksam.evaluation.corloc import corloc
from weaksam.evaluation.truth import Truth
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.state import open_run
from weaksam.structures.dataset import Dataset

EVERY = 3
PARTS = ("chosen third", "other two thirds", "all")


def split_dataset(dataset: Dataset) -> dict[str, Dataset]:
    """The photos by part of `PARTS`."""
    thirds = [index % EVERY == 0 for index in range(len(dataset))]
    pairs = list(zip(dataset.samples, thirds, strict=True))
    samples = (
        tuple(sample for sample, chosen in pairs if chosen),
        tuple(sample for sample, chosen in pairs if not chosen),
        dataset.samples,
    )
    return {part: dataclasses.replace(dataset, samples=of_part) for part, of_part in zip(PARTS, samples, strict=True)}


def corloc_by_part(out: Path) -> dict[str, float]:
    """CorLoc of the weak detector of the run in ``out``, by part of the training photos."""
    run = open_run(recorded_settings(out))
    detections = read_detections(out / "wsod" / "detections_train.json", run.true_train)
    values = {}
    for part, dataset in split_dataset(run.true_train).items():
        truth = Truth.of(dataset)
        assert truth is not None, "the run's training photos have no truth"
        values[part] = corloc(truth.instances, truth.only(detections), truth.tags, truth.num_classes).mean()
    return values


def row(name: str, values: Sequence[str]) -> str:
    """One line of a markdown table."""
    return f"| {name} | {' | '.join(values)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="+", help="folders of finished runs")
    runs = {out: corloc_by_part(out) for out in parser.parse_args().out}
    print(row("run", PARTS) + f"\n|---|{'---|' * len(PARTS)}")
    for out, values in runs.items():
        print(row(out.name, [f"{values[part]:.3f}" for part in PARTS]))
    if len(runs) > 1:
        columns = [[values[part] for values in runs.values()] for part in PARTS]
        print(row("mean", [f"{statistics.mean(column):.3f} ± {statistics.stdev(column):.3f}" for column in columns]))


if __name__ == "__main__":
    main()
