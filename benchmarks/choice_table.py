"""Print the signal of the choice beside the true AP of weak, retrained, merged and handed-on detections.

    python benchmarks/choice_table.py OUT [OUT ...]

Each OUT is the folder of an ordinary run whose pseudo ground truth is finished, with its own settings and seed; its
retrain stage is finished first where it is not. The signal sees tags alone; the AP is that of the test photos. Runs of
one set with several seeds give their means below.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrain_oracles import open_finished

from weaksam.evaluation.text import number
from weaksam.pipeline.measuring import summarise
from weaksam.pipeline.owning import owning
from weaksam.pipeline.plan import stage_named
from weaksam.pipeline.running import recorded_settings

APS = ("AP50", "AP75", "AP .5:.95")


def figures_of(out: Path) -> Mapping[str, Any]:
    """The figures of the retrain stage of the run in ``out``, which is finished first."""
    with owning(recorded_settings(out)):
        run, stage = open_finished(out), stage_named("retrain")
        run.timed(stage.name, lambda: stage.run(run))
        return summarise(run, stage).figures


def aps_of(row: Mapping[str, Any]) -> list[float]:
    """AP50, AP75 and AP .5:.95 of a candidate."""
    return [row["mean"]["0.5"], row["mean"]["0.75"], row["average"]]


def lines_of(name: str, figures: Mapping[str, Any]) -> list[str]:
    """A line of the table per candidate of one run, and one of what is handed on, after box voting."""
    choice, lines = figures["choice"], []
    for candidate, row in choice["candidates"].items():
        marks = [mark for mark, key in (("chosen", "name"), ("best", "best")) if choice[key] == candidate]
        cells = [name, candidate, ", ".join(marks), number(row["signal"]), *map(number, aps_of(row))]
        lines.append("| " + " | ".join(cells) + " |")
    handed_on = [name, "handed on", choice["name"], "", *map(number, aps_of(figures["test_boxes"]))]
    return [*lines, "| " + " | ".join(handed_on) + " |"]


def mean_lines(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Means over the runs of each candidate and of what is handed on, and how often the choice was the best."""
    choices = [figures["choice"] for figures in runs]
    named = {name: [choice["candidates"][name] for choice in choices] for name in ("weak", "retrained", "merged")}
    named["handed on"] = [figures["test_boxes"] for figures in runs]
    lines = []
    for name, rows in named.items():
        means = [number(statistics.mean(values)) for values in zip(*map(aps_of, rows), strict=True)]
        lines.append("| " + " | ".join([f"mean of {len(choices)}", name, "", "", *means]) + " |")
    best = sum(choice["name"] == choice["best"] for choice in choices)
    lost = statistics.mean(choice["lost"] for choice in choices)
    lines.append(
        f"\nThe choice was the best by AP .5:.95 in {best} of {len(choices)} runs; it lost {lost:.3f} in the mean."
    )
    return lines


def main() -> None:
    """Measure every run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="folders of runs")
    outs = parser.parse_args().outs
    runs = [figures_of(out) for out in outs]
    lines = ["| run | detections | | signal (tag AP) | " + " | ".join(APS) + " |", "|---" * 7 + "|"]
    for out, figures in zip(outs, runs, strict=True):
        lines += lines_of(out.name, figures)
    print("\n" + "\n".join([*lines, *mean_lines(runs)]))


if __name__ == "__main__":
    main()
