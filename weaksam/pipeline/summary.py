"""Describe a run's stages for ``metrics.json``, a row each, and show them as a table on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from weaksam.data.text_files import printable
from weaksam.evaluation.text import table_lines
from weaksam.structures.set_aside import SetAside, names_file

WIDTH = 140
"""Columns at which the protocol's lines are wrapped on the terminal."""


@dataclass(frozen=True)
class StageReport:
    """One stage: what it made and how good that is, in a few words each, its seconds, its figures as JSON holds them.

    ``figures`` maps a name (``test_boxes``, ``train_corloc``) to a result's ``as_dict()``; empty where nothing could
    be measured. ``seconds`` is the time of the run that made the stage, however many runs found it finished since.
    """

    stage: str
    made: str
    quality: str
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)


def metrics_dict(
    name: str,
    classes: Sequence[str],
    reports: Sequence[StageReport],
    images: Mapping[str, int],
    bad: Mapping[str, Sequence[tuple[str, str]]],
    note: str | None,
    peak_memory_mib: int = 0,
    data_notes: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The content of ``metrics.json``: counts, the first photos set aside with their reason, and a report per stage.

    ``data_notes``: by split, how its files were read; they are part of the protocol.
    """
    few = {split: SetAside.of(rows).few() for split, rows in bad.items()}
    notes = [f"{split} data: {note}" for split, of_split in (data_notes or {}).items() for note in of_split]
    return {
        "name": name,
        "classes": list(classes),
        "images": dict(images),
        "num_bad": {split: len(rows) for split, rows in bad.items()},
        "bad": [
            {"split": split, "image_id": image_id, "reason": why}
            for split, rows in few.items()
            for image_id, why in rows
        ],
        "bad_more": [
            f"{split}: {len(rows) - len(few[split])} more, all of them in {names_file(split)}"
            for split, rows in bad.items()
            if len(rows) > len(few[split])
        ],
        "stages": [asdict(report) for report in reports],
        "protocol": [*protocol_lines(reports), *notes],
        "note": note,
        "peak_memory_mib": peak_memory_mib,
    }


def protocol_lines(reports: Sequence[StageReport]) -> list[str]:
    """How each figure was measured, ``stage, figure: protocol``, once per protocol, in order."""
    users: dict[str, list[str]] = {}
    for report in reports:
        for name, figures in report.figures.items():
            if isinstance(figures, Mapping) and figures.get("protocol"):
                users.setdefault(str(figures["protocol"]), []).append(f"{report.stage} {name}")
    return [f"{', '.join(names)}: {protocol}" for protocol, names in users.items()]


def summary_text(metrics: Mapping[str, Any]) -> str:
    """The content of ``metrics.json`` for the terminal: the protocol, the table, photos set aside and the note."""
    lines: list[str] = []
    for line in metrics["protocol"]:
        lines += textwrap.wrap(f"protocol of {line}", WIDTH, subsequent_indent="    ")
    rows = [(row["stage"], row["made"], row["quality"], f"{row['seconds']:.0f}") for row in metrics["stages"]]
    lines += ["", *table_lines(("stage", "made", "quality", "seconds"), rows), ""]
    seconds = sum(row["seconds"] for row in metrics["stages"])
    lines += [f"{seconds:.0f} seconds in all, peak memory {metrics['peak_memory_mib']} MiB"]
    if metrics["bad"]:
        lines += [f"{sum(metrics['num_bad'].values())} photos were set aside:"]
        lines += [f"  {row['split']}: {row['image_id']}: {row['reason']}" for row in metrics["bad"]]
        lines += [f"  {line}" for line in metrics["bad_more"]]
    if metrics["note"]:
        lines += [metrics["note"]]
    return "\n".join(map(printable, lines)).rstrip()
