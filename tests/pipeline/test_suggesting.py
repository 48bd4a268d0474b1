"""`weaksam suggest` on a toy run: its photos, its file, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import toy_run
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.pipeline.plan import STAGES
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.pipeline.suggesting import BEFORE, suggested
from weaksam.structures.photo_labels import PhotoLabels


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suggest")
    pipeline.run(load_settings(RunSettings, None, [*toy_run(folder), f"out={folder / 'out'}"]), until="pseudo_gt")
    return folder / "out"


def test_photos_with_tags_that_lack_a_box_come_first(out: Path, tmp_path: Path) -> None:
    settings = json.loads((out / "run.json").read_text())["settings"]
    *lines, last = pipeline.suggest(out, 4, tmp_path / "chosen.json")
    rows = json.loads((tmp_path / "chosen.json").read_text())["photos"]
    assert len(lines) == len(rows) == len({row["image"] for row in rows}) == 4 and str(tmp_path) in last
    for line, row in zip(lines, rows, strict=True):
        assert line.startswith(row["image"]) and row["reason"] in line
        assert (Path(settings["data"]["train"]["images"]) / row["image"]).is_file()
        assert 0 <= row["doubt"] <= 1 and (row["doubt"] == 1.0) >= bool(row["without_box"])
    assert rows[0]["doubt"] == max(row["doubt"] for row in rows)
    assert pipeline.suggest(out, 4, tmp_path / "again.json")[:-1] == lines
    assert len(pipeline.suggest(out, 10_000)) > 5 and (out / "suggestions.json").is_file()
    assert pipeline.verify_run(out).faults == []


def test_photos_that_have_boxes_are_not_named_again(out: Path, tmp_path: Path) -> None:
    """The first suggestion is boxed; the photo labelled only by a count stays open."""
    pipeline.suggest(out, 2, tmp_path / "chosen.json")
    first, second = (row["image"] for row in json.loads((tmp_path / "chosen.json").read_text())["photos"])
    run = open_run(recorded_settings(out))
    for stage in STAGES[: len(BEFORE)]:
        stage.run(run)
    labels = {first: PhotoLabels(complete=True), second: PhotoLabels(counts={0: 1})}
    run = replace(run, context=replace(run.context, labels=labels))
    assert run.context.labels == labels
    names = [suggestion.image_id for suggestion in suggested(run, 10_000)]
    assert first not in names and second in names and len(names) == len(run.context.train) - 1


def test_a_run_without_pseudo_labels_is_one_sentence(tmp_path: Path) -> None:
    toy = load_settings(RunSettings, None, [*toy_run(tmp_path), f"out={tmp_path / 'out'}"])
    pipeline.run(toy, until="clues")
    with pytest.raises(UserError, match="wanted the finished stage proposals"):
        pipeline.suggest(tmp_path / "out", 2)
    with pytest.raises(UserError, match="wanted at least one photo to suggest, found 0"):
        pipeline.suggest(tmp_path / "out", 0)
