"""Damaged records in the folder of a run: a rerun makes them again, and a report ends in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers import DAMAGED_JSON, TOY_RUN
from weaksam import pipeline
from weaksam.cli.commands import app
from weaksam.config import UserError, load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run, refuse_older
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.store.records import read_record

NOTES = {
    "no peak": {"finished": True, "seconds": 1.0},
    "text": {"finished": True, "seconds": "long", "peak_memory_mib": 5},
    "nan": {"finished": True, "seconds": float("nan"), "peak_memory_mib": 5},
    "unfinished": {"finished": "no", "seconds": 0.0},
    "begun yesterday": {"finished": False, "seconds": 0.0, "began": "yesterday"},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=4, max_distractors=1), 3, 1, seed=1)
    return folder


@pytest.fixture(scope="module")
def settings(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """Settings whose first stage is finished."""
    data = [f"data.train.{name}={scenes / path}" for name, path in (("images", "train"), ("tags", "tags_train.json"))]
    chosen = load_settings(RunSettings, None, [*TOY_RUN, *data, f"out={tmp_path_factory.mktemp('run') / 'out'}"])
    pipeline.run(chosen, until="clues")
    return chosen


def test_damaged_records_are_made_again_by_a_rerun(settings: RunSettings) -> None:
    out = settings.out
    (store,) = (out / "clues" / "store").glob("train-*")
    for damage in (b"", b"[1, 2]"):
        for name in ("run.json", "metrics.json", "clues/done.json", store / "manifest.json"):
            (out / name).write_bytes(damage)
        metrics = pipeline.run(settings, until="clues")
        assert [row["stage"] for row in metrics["stages"]] == ["clues"]
        assert json.loads((out / "clues" / "done.json").read_text())["finished"] is True
        assert json.loads((out / "run.json").read_text())["settings"]["out"] == str(out)


def test_a_note_of_a_stage_that_holds_something_else_is_none(settings: RunSettings) -> None:
    run, path = open_run(settings), settings.out / "clues" / "done.json"
    whole = path.read_bytes()
    assert run.finished("clues")
    notes = (json.dumps({"key": run.key("clues"), **note}).encode() for note in NOTES.values())
    for damage in [*DAMAGED_JSON.values(), *notes]:
        path.write_bytes(damage)
        assert run.note("clues") == {} and not run.finished("clues")
    path.write_bytes(whole)


@pytest.mark.parametrize("command", [["report"], ["clues", "eval"]])
@pytest.mark.parametrize("name", DAMAGED_JSON)
def test_commands_that_read_a_damaged_record_end_in_one_sentence(
    settings: RunSettings, command: list[str], name: str
) -> None:
    whole = (settings.out / "run.json").read_bytes()
    (settings.out / "run.json").write_bytes(DAMAGED_JSON[name])
    try:
        result = CliRunner().invoke(app, [*command, str(settings.out)])
    finally:
        (settings.out / "run.json").write_bytes(whole)
    assert result.exit_code == 2 and "wanted the record of a run in" in result.output, result.output
    assert len(result.output.strip().splitlines()) == 1


def test_settings_in_a_record_that_are_none_are_named(settings: RunSettings) -> None:
    path = settings.out / "run.json"
    whole = path.read_text()
    record = read_record(path)
    for section, value, named in (("seed", "abc", "seed"), ("wsod", 5, "wsod"), ("strange", 1, "strange")):
        path.write_text(json.dumps({**record, "settings": {**record["settings"], section: value}}))
        with pytest.raises(UserError, match=named) as caught:
            pipeline.rewrite_report(settings.out)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.write_text(whole)


@pytest.mark.parametrize("version", [None, 3, "", "new", "0", "1.x", ["0.1"], {}, "9" * 5000 + ".1"])
def test_a_version_that_is_none_says_nothing_of_the_folder(tmp_path: Path, version: object) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"versions": {"weaksam": version}}))
    refuse_older(tmp_path)
    (tmp_path / "log.jsonl").write_text(json.dumps({"weaksam": version}) + "\n")
    refuse_older(tmp_path)
    (tmp_path / "log.jsonl").write_text(json.dumps({"weaksam": "0.1.0"}) + "\n")
    with pytest.raises(UserError, match=r"made by 0\.1\.0"):
        refuse_older(tmp_path)
