"""``weaksam verify``: changed, missing and unlisted files of a run told apart, each with what mends it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers import TOY_RUN, flip
from weaksam import pipeline
from weaksam.cli.commands import app
from weaksam.config import UserError, load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.verifying import UNCHECKED
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.store.records import read_record, write_record


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """Settings of a run up to the weak detector, on a backbone that the clue stage trained, with kept embeddings."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=4, max_distractors=1), 3, 1, seed=1)
    data = [f"data.train.{name}={folder / path}" for name, path in (("images", "train"), ("tags", "tags_train.json"))]
    more = ["clues.finetune_epochs=1", "backbone.name=sam_nano", "backbone.weights=imagenet"]
    chosen = load_settings(RunSettings, None, [*TOY_RUN, *data, *more, f"out={tmp_path_factory.mktemp('run') / 'out'}"])
    pipeline.run(chosen, until="wsod")
    return chosen


@pytest.fixture()
def out(settings: RunSettings, tmp_path: Path) -> Iterator[Path]:
    """A copy of the run's folder, to be damaged."""
    shutil.copytree(settings.out, tmp_path / "out")
    yield tmp_path / "out"


def faults_of(out: Path) -> dict[str, str]:
    return {fault.path.relative_to(out).as_posix(): fault.kind for fault in pipeline.verify_run(out).faults}


def test_a_whole_run_has_no_fault(settings: RunSettings) -> None:
    verification = pipeline.verify_run(settings.out)
    assert verification.faults == [] and verification.unfinished == []
    files = {path for path in settings.out.rglob("*") if path.is_file() and path.name not in UNCHECKED}
    assert verification.num_checked == len(files)
    result = CliRunner().invoke(app, ["verify", str(settings.out)])
    assert (result.exit_code, result.output.count("\n")) == (
        0,
        1,
    ) and "files compared: all as they were written" in result.output


def test_every_file_is_told_when_it_changes_or_is_lost(out: Path) -> None:
    names = [path.relative_to(out).as_posix() for path in sorted(out.rglob("*")) if path.is_file()]
    assert any("backbone-" in name for name in names) and any(name.endswith("classifier.safetensors") for name in names)
    for name in names:
        path = out / name
        whole = path.read_bytes()
        flip(path, len(whole) // 2, 1)
        changed = faults_of(out)
        if name not in UNCHECKED:  # these grow or are drawn anew, and no stage reads them
            assert changed.get(name) == "changed", (name, changed)
        path.unlink()
        lost = faults_of(out)
        by_itself = name.endswith(("manifest.json", "done.json", "run.json", *UNCHECKED))
        assert by_itself or lost == {name: "missing"}, (name, lost)
        path.write_bytes(whole)
    assert faults_of(out) == {}


def test_files_that_no_run_writes_are_unlisted(out: Path) -> None:
    (weights,) = out.glob("wsod/store/weights-*")
    strange = ["notes.txt", "wsod/notes.json", "wsod/store/old.zip", f"{weights.relative_to(out)}/state.safetensors"]
    for name in strange:
        shutil.copy(weights / "weights.safetensors", out / name)
    assert faults_of(out) == dict.fromkeys(strange, "unlisted")


def test_faults_as_json_name_what_mends_them(out: Path) -> None:
    (weights,) = out.glob("wsod/store/weights-*")
    flip(weights / "weights.safetensors", -8)
    (out / "metrics.json").unlink()
    result = CliRunner().invoke(app, ["verify", str(out), "--json"])
    assert result.exit_code == 1
    content = json.loads(result.output)
    remedies = {fault["file"]: (fault["kind"], fault["remedy"]) for fault in content["faults"]}
    kind, remedy = remedies[f"{weights.relative_to(out)}/weights.safetensors"]
    assert kind == "changed" and remedy.startswith(f"delete {weights} and run 'weaksam wsod'")
    assert remedies["metrics.json"] == ("missing", f"run 'weaksam report {out}', which writes it anew")


def test_a_stage_under_way_is_compared_as_far_as_it_is_there(out: Path) -> None:
    note = read_record(out / "wsod" / "done.json")
    assert note is not None
    write_record(out / "wsod" / "done.json", {**note, "finished": False, "files": {}})
    (store,) = out.glob("proposals/store/train-*")
    (store / "manifest.json").unlink()
    verification = pipeline.verify_run(out)
    assert verification.unfinished == [f"proposals/store/{store.name}", "wsod"] and verification.faults == []
    flip(next(store.glob("part-*.parquet")), 50)
    assert list(faults_of(out).values()) == ["changed"]


def test_what_is_damaged_is_refused_by_a_rerun_and_mended_as_said(settings: RunSettings) -> None:
    """A backbone with a flipped bit is not read; deleted, it is the same as before, and all after it stays."""
    (path,) = settings.out.glob("clues/store/backbone-*/backbone.safetensors")
    before = {file: file.read_bytes() for file in settings.out.glob("*/store/*/*") if file.is_file()}
    flip(path, -40)
    with pytest.raises(UserError, match=r"backbone\.safetensors is damaged .*: delete it and rerun"):
        pipeline.run(settings, until="wsod")
    path.unlink()
    pipeline.run(settings, until="wsod")
    assert {file: file.read_bytes() for file in settings.out.glob("*/store/*/*") if file.is_file()} == before
    assert faults_of(settings.out) == {}


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found neither a stage nor run\.json"):
        pipeline.verify_run(tmp_path)
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "nowhere")]).exit_code == 2
