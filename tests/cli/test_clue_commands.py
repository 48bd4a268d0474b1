"""`weaksam clues` and `weaksam clues eval` on scenes with masks, with clues of a CNN."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from weaksam import cli
from weaksam.evaluation.clue_figures import ALL
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.store.records import read_record, write_record


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the clue stage on seven scenes with masks."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=4), 7, 1, seed=1)
    data = {"images": folder / "train", "tags": folder / "tags_train.json", "truth": folder / "instances_train.json"}
    settings = [f"data.train.{name}={path}" for name, path in data.items()]
    result = invoke("clues", *settings, "backbone.weights=none", "clues.long_side=64", f"out={folder / 'out'}")
    assert result.exit_code == 0, (result.output, result.exception)
    return folder / "out"


def test_clues_of_a_run_are_measured(finished: Path) -> None:
    result = invoke("clues", "eval", finished, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    figures = json.loads(result.stdout)
    assert set(figures["points"]) == {"coarse", ALL} and set(figures["masks"]) == {"coarse"}
    assert 0 <= figures["points"]["coarse"]["hit"] <= 1 and 0 < figures["masks"]["coarse"]["best"] < 1
    text = invoke("clues", "eval", finished).stdout
    assert "best mIoU" in text and text.count("protocol: ") == 2
    known = json.loads((finished / "metrics.json").read_text())["stages"][0]["figures"]
    assert known["train_clues"]["points"] == figures["points"]
    assert known["train_peaks"]["inside"] == figures["points"][ALL]["inside"]


def test_the_report_shows_every_map_and_its_peaks(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "Clues: class maps and their peaks" in page and "Clue points on the training photos" in page
    assert len(re.findall(r"<figcaption>\w+, coarse map: \d+ peaks?</figcaption>", page)) >= 6


def test_eval_without_a_run_without_clues_and_without_truth_is_one_sentence(finished: Path, tmp_path: Path) -> None:
    assert "no run.json" in invoke("clues", "eval", tmp_path).stderr
    record = read_record(finished / "run.json")
    write_record(tmp_path / "run.json", record)
    assert "wanted the finished stage clues" in invoke("clues", "eval", tmp_path).stderr
    record["settings"]["data"]["train"]["truth"] = None
    write_record(tmp_path / "run.json", record)
    result = invoke("clues", "eval", tmp_path)
    assert result.exit_code == 2 and "set data.train.truth" in result.stderr


def test_clues_need_no_word_to_run() -> None:
    assert "[CONFIG]" in invoke("clues", "run", "--help").stdout
    for words in (["clues", "wsod.num_epoch=3"], ["clues", "run", "wsod.num_epoch=3"]):
        assert "wsod.num_epochs" in invoke(*words).stderr
    assert "eval" in invoke("clues", "--help").stdout
