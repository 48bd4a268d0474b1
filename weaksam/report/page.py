"""Render the HTML page of a run: figures, pictures, protocol and settings, without any external resource."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from weaksam.data.sample_photos import read_photo
from weaksam.evaluation.detection_errors import ERROR_KINDS
from weaksam.evaluation.text import number
from weaksam.report.charts import Chart
from weaksam.report.curves import charts
from weaksam.report.drawn_photos import Gallery, Picture
from weaksam.report.gallery import StageResults
from weaksam.report.insight_tables import as_cell, insight_tables
from weaksam.report.insights import Insights
from weaksam.report.photo_records import LABELS, ZONES, GalleryData, gallery_data
from weaksam.report.pictures import colour_of
from weaksam.report.pipeline_picture import pipeline_picture
from weaksam.report.tables import Table, figures_of, tables, three_aps
from weaksam.report.thumbnails import thumbnails
from weaksam.store.files import atomic_file
from weaksam.structures.dataset import Sample

FOLDER = Path(__file__).parent
PICTURES = "report_photos"
"""Folder beside the page for the pictures that have no room in it."""
MOST_BYTES = 7_500_000
"""Size of a page whose pictures lie in it, at most."""


@dataclass
class Page:
    """Everything the page shows; ``write`` renders it.

    Without ``results`` the page has no gallery and no statistics beyond the metrics.
    """

    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    galleries: Sequence[Gallery] = field(default_factory=list)
    results: StageResults | None = None
    insights: Insights | None = None
    pictures: Sequence[Picture] = field(default_factory=list)
    """Diagnoses that were drawn beside the run, such as RoI drop's."""

    def render(self, read: Callable[[Sample], np.ndarray] = read_photo) -> tuple[str, Mapping[str, bytes]]:
        """The page as HTML, every text escaped, and the pictures that it needs beside it, by path below its folder."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
        )
        classes = self.metrics["classes"]
        blocks = {"styles": ("page.css", "gallery.css"), "scripts": ("overlay.js", "gallery.js", "review.js")}
        values = {name: Markup("".join(map(_text, files))) for name, files in blocks.items()}
        more_tables, more_charts, data = self._insight_parts()
        stages = self.metrics["stages"]
        values |= {
            "title": f"weaksam: {self.metrics['name']}",
            "subtitle": subtitle(self.metrics, self.record),
            "cards": headline_cards(self.metrics, self.insights),
            "note": self.metrics["note"],
            "wide": pipeline_picture(stages, 3),
            "narrow": pipeline_picture(stages, 1),
            "stages": [{**row, "seconds": f"{row['seconds']:.0f}"} for row in stages],
            "tables": [*more_tables, *tables(self.metrics)],
            "as_cell": as_cell,
            "charts": more_charts,
            "pictures": self.pictures,
            "galleries": [gallery for gallery in self.galleries if gallery.photos],
            "classes": [{"name": name, "colour": colour_of(label)} for label, name in enumerate(classes)],
            "bad": self.metrics["bad"],
            "bad_more": self.metrics["bad_more"],
            "protocol": self.metrics["protocol"],
            "records": [
                {"title": title, "text": json.dumps(value, indent=2, default=str)}
                for title, value in self.record.items()
            ],
            "left_out": 0 if data is None else data.left_out,
            "reviewed": data is not None and LABELS in data.stages,
            "data": None,
        }
        template = environment.get_template("page.html.j2")
        if data is None:
            return template.render(**values), {}
        room = MOST_BYTES - len(template.render(**values).encode()) - len(self._json(data, [""] * len(data.photos)))
        pictures = thumbnails(data.samples, room, PICTURES, read)
        return template.render(**{**values, "data": Markup(self._json(data, pictures.sources))}), pictures.files

    def _insight_parts(self) -> tuple[list[Table], list[Chart], GalleryData | None]:
        """The tables, charts and photos that the results allow."""
        if self.results is None or self.insights is None:
            return [], [], None
        data = gallery_data(self.results, self.insights)
        more = list(insight_tables(self.metrics["classes"], self.insights, data))
        return more, list(charts(self.metrics, self.insights, self.results.histories)), data

    def _json(self, data: GalleryData, sources: Sequence[str]) -> str:
        """What the script reads, as JSON that no text in it can end."""
        assert self.results is not None
        classes = self.metrics["classes"]
        value = {
            "run": {"name": self.metrics["name"], "pseudo_gt": self.results.labels_key},
            "classes": list(classes),
            "colours": [colour_of(label) for label in range(len(classes))],
            "stages": data.stages,
            "labels": LABELS if LABELS in data.stages else None,
            "kinds": list(ERROR_KINDS),
            "zones": list(ZONES),
            "reasons": data.reasons,
            "photos": [{**photo, "u": source} for photo, source in zip(data.photos, sources, strict=True)],
        }
        return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")

    def write(self, path: Path) -> list[Path]:
        """Write the page to ``path``, whole or not at all; returns it and the pictures beside it, all that it needs."""
        html, pictures = self.render()
        folder = path.parent / PICTURES
        for name, data in pictures.items():
            (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path.parent / name) as temporary:
                temporary.write_bytes(data)
        with atomic_file(path) as temporary:
            temporary.write_text(html, encoding="utf-8")
        written = [path.parent / name for name in pictures]
        for old in sorted(folder.glob("*.jpg")):
            if old not in written:
                old.unlink()
        if not pictures and folder.is_dir():
            folder.rmdir()
        return [path, *written]


def _text(name: str) -> str:
    """A file of the page."""
    return (FOLDER / name).read_text(encoding="utf-8")


def subtitle(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """How many photos, classes and bad photos, and what ran it."""
    images = ", ".join(f"{count} {split} photos" for split, count in metrics["images"].items())
    versions = record.get("versions", {})
    return (
        f"{images}; {len(metrics['classes'])} classes; {sum(metrics['num_bad'].values())} photos set aside; "
        f"seed {record.get('settings', {}).get('seed', '-')}; weaksam {versions.get('weaksam', '-')}, "
        f"torch {versions.get('torch', '-')} on {record.get('device', {}).get('device', '-')}; "
        f"peak memory {metrics['peak_memory_mib']} MiB"
    )


def headline_cards(metrics: Mapping[str, Any], insights: Insights | None = None) -> list[dict[str, str]]:
    """The figures to see first; only those that were measured."""
    headlines = (
        ("wsod", "test_boxes", "WSOD, test AP50 / AP75 / AP"),
        ("wsod", "train_corloc", "WSOD, train CorLoc"),
        ("retrain", "test_boxes", "chosen detections, test AP50 / AP75 / AP"),
        ("retrain", "test_network_boxes", "retrained network alone, test AP50 / AP75 / AP"),
        ("wsis", "test_masks", "masks, test AP50 / AP75 / AP"),
    )
    cards = []
    for stage, name, label in headlines:
        figures = figures_of(metrics, stage).get(name, {})
        mean = figures.get("mean")
        values = three_aps(figures) if isinstance(mean, Mapping) else (mean,)
        if values[0] is not None:
            cards.append({"label": label, "value": " / ".join(map(number, values))})
    predicted = None if insights is None else insights.predicted
    if predicted is not None and predicted.num_boxes:
        interval = f"predicted precision of the pseudo labels, {number(predicted.low)} to {number(predicted.high)}"
        true = (
            "" if insights is None or insights.true_precision is None else f"; true {number(insights.true_precision)}"
        )
        cards.append({"label": interval + true, "value": number(predicted.precision)})
    return cards
