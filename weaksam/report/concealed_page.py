"""Write the page of a training for concealed objects: figures, curves, labels and maps, in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from weaksam.evaluation.map_files import MapReport
from weaksam.evaluation.text import number
from weaksam.report.map_plot import map_curves
from weaksam.report.pictures import Canvas
from weaksam.store.files import write_text_atomic

FOLDER = Path(__file__).parent
COLUMNS = (
    ("M", "mae"),
    ("F weighted", "weighted_f"),
    ("F adaptive", "adaptive_f"),
    ("F mean", "mean_f"),
    ("F max", "max_f"),
    ("E adaptive", "adaptive_e"),
    ("E mean", "mean_e"),
    ("E max", "max_e"),
    ("S", "s"),
)
SIDE = 200
"""Longer side of a picture in the page, pixels."""


@dataclass(frozen=True)
class DrawnRow:
    """One photo of the page: its name, a note, and maps ``(H, W)`` in [0, 1] by what they are called."""

    name: str
    note: str
    image: np.ndarray
    maps: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ConcealedPage:
    """What the page shows; parts that are empty are left out."""

    title: str
    labels: Mapping[str, Any]
    """Figures of the labels by name."""
    reports: Mapping[str, MapReport]
    losses: Sequence[Mapping[str, float]]
    """Mean losses of each epoch, by name."""
    scores: Mapping[int, float]
    """Mean absolute error on the validation photos by epoch, counted from 1."""
    train: Sequence[DrawnRow]
    test: Sequence[DrawnRow]
    settings: str
    """The settings as YAML."""

    def write(self, path: Path) -> None:
        """Write the page as one HTML file without any external resource, every text escaped."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
        )
        rows = [
            (name, [number(report.figures.as_dict()[key]) for _, key in COLUMNS])
            for name, report in self.reports.items()
        ]
        html = environment.get_template("concealed.html.j2").render(
            title=self.title,
            styles=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
            labels={name: value for name, value in self.labels.items() if value is not None},
            columns=[title for title, _ in COLUMNS],
            rows=rows,
            protocols={name: report.protocol for name, report in self.reports.items()},
            curves=figure_uri(map_curves(self.reports)) if self.reports else "",
            training=self._training_plot() if self.losses else "",
            galleries=[(title, [_drawn(row) for row in rows]) for title, rows in self._galleries() if rows],
            settings=self.settings,
        )
        write_text_atomic(path, html)

    def _galleries(self) -> list[tuple[str, Sequence[DrawnRow]]]:
        return [("Labels of training photos", self.train), ("Maps of test photos", self.test)]

    def _training_plot(self) -> str:
        """Losses by epoch, and the validation's error beside them, as a data address."""
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        panels = figure.subplots(1, 2 if self.scores else 1, squeeze=False)[0]
        epochs = range(1, len(self.losses) + 1)
        for name in self.losses[0]:
            panels[0].plot(epochs, [of_epoch.get(name, float("nan")) for of_epoch in self.losses], label=name)
        panels[0].set(xlabel="epoch", ylabel="mean loss")
        panels[0].legend(frameon=False, fontsize=9)
        if self.scores:
            panels[1].plot(list(self.scores), list(self.scores.values()), color="#202020", marker="o", ms=3)
            panels[1].set(xlabel="epoch", ylabel="mean absolute error (validation)")
        return figure_uri(figure)


def figure_uri(figure: Figure) -> str:
    """A figure as a ``data:`` address holding a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _drawn(row: DrawnRow) -> dict[str, Any]:
    """A row's pictures as data addresses: the photo, then each map in grey levels."""
    pictures = [("photo", Canvas(row.image, SIDE).uri())]
    for name, values in row.maps.items():
        grey = (np.asarray(torch.as_tensor(values)).clip(0, 1) * 255).astype(np.uint8)
        picture = Image.fromarray(grey).convert("RGB")
        pictures.append((name, Canvas(np.array(picture), SIDE).uri()))
    return {"name": row.name, "note": row.note, "pictures": pictures}
