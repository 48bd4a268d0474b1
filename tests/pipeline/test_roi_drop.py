"""`weaksam roi-drop plot` on toy runs: what it writes, what it leaves alone, and what it refuses."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.helpers import TOY_RUN
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.verifying import UNCHECKED
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.store.files import file_sha256

DROPS = [f"{stage}.roi_drop.{setting}" for stage in ("retrain", "wsis") for setting in ("gate=joint", "start_step=0")]
output = partial(commands.output, "roi-drop", "plot")
refused = partial(commands.refused, "roi-drop", "plot")


def toy_settings(folder: Path, *more: str) -> RunSettings:
    data = {"images": folder / "train", "tags": folder / "tags_train.json", "truth": folder / "instances_train.json"}
    given = [f"data.train.{name}={path}" for name, path in data.items()]
    return load_settings(RunSettings, None, [*TOY_RUN, *given, f"out={folder / 'out'}", *more])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=2, max_distractors=1), 5, 1, seed=1)
    return folder


@pytest.fixture(scope="module")
def out(scenes: Path) -> Path:
    """The folder of a toy run up to the retraining, with RoI drop."""
    pipeline.run(toy_settings(scenes, *DROPS), until="retrain")
    return scenes / "out"


def files_of(out: Path) -> dict[str, str]:
    paths = (path for path in out.rglob("*") if path.is_file() and path.name not in UNCHECKED)
    return {path.relative_to(out).as_posix(): file_sha256(path) for path in paths}


def test_the_plot_leaves_the_run_as_it_is_and_is_part_of_it(out: Path) -> None:
    before = files_of(out)
    text = output(out, "--at", 0.5)
    assert "after 50% of the training of retrain" in text and "error rate" in text
    assert "dropped of the class term, by epoch: " in text and text.splitlines()[-1] == f"{out}/roi_drop/retrain.png"
    after = files_of(out)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"roi_drop"}
    with Image.open(out / "roi_drop" / "retrain.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    verification = pipeline.verify_run(out)
    assert verification.faults == [] and verification.unfinished == []
    figures = json.loads((out / "roi_drop" / "retrain.json").read_text())
    terms = figures["terms"]
    assert set(terms) == {"class", "box"} and figures["num_photos"] == 5 and figures["share"] == 0.5
    for term in terms.values():
        for bins in (term["loss"], term["normalised"]):
            assert sum(bins["counts"]) == figures["num_regions"] > 0
            assert sum(bins["wrong"]) == pytest.approx(figures["error_rate"] * figures["num_regions"])
    assert [(p["gate"], p["threshold"]) for p in figures["proposals"]][:2] == [
        ("independent", "loss"),
        ("independent", "normalised"),
    ]
    # The same figures again, from the same early detector
    assert json.loads(output(out, "--at", 0.5, "--json")) == {
        name: value for name, value in figures.items() if name not in ("files", "record_sha256")
    }
    assert files_of(out) == after
    (out / "roi_drop" / "retrain.png").write_bytes(b"")
    (out / "roi_drop" / "notes.txt").write_text("x")
    faults = {fault.path.name: fault.kind for fault in pipeline.verify_run(out).faults}
    assert faults == {"retrain.png": "changed", "notes.txt": "unlisted"}
    (out / "roi_drop" / "notes.txt").unlink()


@pytest.mark.slow
def test_mask_rcnn_has_a_mask_term_and_the_picture_goes_where_it_is_wanted(
    scenes: Path, out: Path, tmp_path: Path
) -> None:
    assert "wanted the finished stage wsis" in refused(out, "--stage", "wsis")
    pipeline.run(toy_settings(scenes, *DROPS))
    figures = json.loads(output(out, "--stage", "wsis", "--out", tmp_path / "x.svg", "--json"))
    assert set(figures["terms"]) == {"class", "box", "mask"} and figures["stage"] == "wsis"
    assert set(figures["dropped_by_epoch"]) == {"class", "box", "mask"}
    assert b"<svg" in (tmp_path / "x.svg").read_bytes()[:600] and (tmp_path / "x.json").is_file()


def test_mistakes_are_one_sentence(scenes: Path, out: Path, tmp_path: Path) -> None:
    assert "above 0 and at most 1, found 0" in refused(out, "--at", 0)
    assert "found 'wsod': name one" in refused(out, "--stage", "wsod")
    assert ".png" in refused(out, "--out", tmp_path / "x.txt")
    assert "no run.json" in refused(tmp_path)
    settings = toy_settings(scenes, "data.train.truth=null", f"out={tmp_path / 'blind'}")
    pipeline.run(settings, until="clues")
    assert "true boxes of the training photos to tell wrong pseudo boxes from right ones, found none" in refused(
        tmp_path / "blind"
    )
    unfinished = toy_settings(scenes, f"out={tmp_path / 'begun'}")
    pipeline.run(unfinished, until="clues")
    assert "wanted the finished stage proposals" in refused(tmp_path / "begun")
