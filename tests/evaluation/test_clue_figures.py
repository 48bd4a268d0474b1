"""`weaksam clues eval` and the report's gallery, on scenes with masks and the CNN source."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from weaksam import cli
from weaksam.evaluation.clue_figures import ALL, measure_clues
from weaksam.evaluation.text import clue_text
from weaksam.evaluation.truth import Truth
from weaksam.report.pictures import Canvas
from weaksam.report.tables import clue_table
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.structures.clue_points import COARSE, CROSS, CluePeaks
from weaksam.structures.instances import Instances

TRUTH = Truth(
    {"a": Instances(torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.tensor([0, 1]))}, {"a": (0, 1)}, {}, 2
)
PEAKS = CluePeaks(
    torch.tensor([[5.0, 5.0], [25.0, 25.0], [25.0, 25.0], [50.0, 50.0]]),
    torch.tensor([0, 0, -1, -1]),
    torch.tensor([COARSE, COARSE, CROSS, CROSS]),
    torch.tensor([1.0, 0.9, 1.0, 1.0]),
)


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_each_kind_is_measured_alone_and_all_together() -> None:
    figures = measure_clues(TRUTH, lambda _: PEAKS)
    assert set(figures.points) == {"coarse", "cross", ALL} and not figures.masks
    inside = {name: (one.inside, one.hit, one.num_points) for name, one in figures.points.items()}
    assert inside == {"coarse": (0.5, 0.5, 2), "cross": (0.5, 0.5, 2), ALL: (0.5, 1.0, 4)}
    lines = clue_text(figures, ("cat", "dog")).splitlines()
    assert lines[2].split() == ["coarse", "2", "0.500", "1.000", "1.000", "0.500"]
    assert any(line.startswith("protocol: clue points: a point is right inside any true box") for line in lines)
    assert figures.as_dict()["points"]["cross"]["top_inside"] is None
    metrics = {"stages": [{"stage": "clues", "figures": {"train_clues": figures.as_dict()}}]}
    assert [row[0] for row in clue_table(metrics).rows] == ["coarse", "cross", ALL]
    assert clue_table({"stages": []}).rows == []


def test_heat_is_grey_where_low_and_coloured_where_high() -> None:
    canvas = Canvas(np.full((20, 40, 3), 200, np.uint8), max_side=40)
    pixels = np.asarray(canvas.heat(torch.tensor([[-9.0, 0.0, 0.0, 5.0]]), 0).photo).astype(int)
    assert np.ptp(pixels[10, 1]) == 0 and pixels[10, 1, 0] == 110  # 0.55 of 200
    assert pixels[10, 38, 0] > pixels[10, 38, 1] + 60  # the first class is red
    flat = Canvas(np.zeros((4, 4, 3), np.uint8), max_side=4).heat(torch.zeros(2, 2), 0)
    assert not np.asarray(flat.photo).any()


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
    record = json.loads((finished / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert "wanted the finished stage clues" in invoke("clues", "eval", tmp_path).stderr
    record["settings"]["data"]["train"]["truth"] = None
    (tmp_path / "run.json").write_text(json.dumps(record))
    result = invoke("clues", "eval", tmp_path)
    assert result.exit_code == 2 and "set data.train.truth" in result.stderr


def test_clues_need_no_word_to_run() -> None:
    assert "[CONFIG]" in invoke("clues", "run", "--help").stdout
    for words in (["clues", "wsod.num_epoch=3"], ["clues", "run", "wsod.num_epoch=3"]):
        assert "wsod.num_epochs" in invoke(*words).stderr
    assert "eval" in invoke("clues", "--help").stdout
