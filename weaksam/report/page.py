"""Render the HTML page of a run: figures, pictures, protocol and settings, without any external resource."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from weaksam.evaluation.text import number
from weaksam.report.pictures import colour_of
from weaksam.report.tables import figures_of, tables, three_aps
from weaksam.store.files import atomic_file

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Picture:
    """One embedded picture: a ``data:`` address and the line below it."""

    caption: str
    uri: str


@dataclass(frozen=True)
class GalleryPhoto:
    """The pictures made of one photo, side by side."""

    name: str
    tags: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Gallery:
    """Photos under a title, one a line, with a sentence that explains what is drawn."""

    title: str
    text: str
    photos: list[GalleryPhoto]


@dataclass
class Page:
    """Everything the page shows; ``write`` renders it."""

    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    galleries: Sequence[Gallery] = field(default_factory=list)

    def render(self) -> str:
        """The page as HTML; every text is escaped."""
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        classes = self.metrics["classes"]
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            title=f"weaksam: {self.metrics['name']}",
            subtitle=subtitle(self.metrics, self.record),
            cards=headline_cards(self.metrics),
            note=self.metrics["note"],
            stages=[{**row, "seconds": f"{row['seconds']:.0f}"} for row in self.metrics["stages"]],
            tables=list(tables(self.metrics)),
            galleries=[gallery for gallery in self.galleries if gallery.photos],
            classes=[{"name": name, "colour": colour_of(label)} for label, name in enumerate(classes)],
            bad=self.metrics["bad"],
            bad_more=self.metrics["bad_more"],
            protocol=self.metrics["protocol"],
            records=[
                {"title": title, "text": json.dumps(value, indent=2, default=str)}
                for title, value in self.record.items()
            ],
        )

    def write(self, path: Path) -> None:
        """Write the page to ``path``, whole or not at all."""
        html = self.render()
        with atomic_file(path) as temporary:
            temporary.write_text(html, encoding="utf-8")


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


def headline_cards(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
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
    return cards
