"""`weaksam suggest` on a toy run: its photos, its file, and what it refuses."""

import json
from pathlib import Path

import pytest

from tests.helpers import toy_run
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.pipeline.settings import RunSettings


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


def test_a_run_without_pseudo_labels_is_one_sentence(tmp_path: Path) -> None:
    toy = load_settings(RunSettings, None, [*toy_run(tmp_path), f"out={tmp_path / 'out'}"])
    pipeline.run(toy, until="clues")
    with pytest.raises(UserError, match="wanted the finished stage proposals"):
        pipeline.suggest(tmp_path / "out", 2)
    with pytest.raises(UserError, match="wanted at least one photo to suggest, found 0"):
        pipeline.suggest(tmp_path / "out", 0)
