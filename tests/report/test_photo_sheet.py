"""The sheet of one photo: which drawings a training and a test photo get, and how it is found."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers import instances
from weaksam.config import UserError
from weaksam.report.gallery import StageResults, detection_drawings, train_drawings
from weaksam.report.photo_sheet import SIDE, draw_photo
from weaksam.report.sheets import write_picture
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances


def photos(folder: Path, name: str, *files: str) -> Dataset:
    folder.mkdir()
    samples = []
    for number, file in enumerate(files, 1):
        Image.new("RGB", (60, 30), (200, 200, 200)).save(folder / file)
        samples.append(Sample(file, folder / file, (30, 60), (0,), None, number))
    return Dataset(name, ("cat",), (1,), tuple(samples))


@pytest.fixture
def results(tmp_path: Path) -> StageResults:
    train, test = photos(tmp_path / "a", "train", "one.png", "two.png"), photos(tmp_path / "b", "test", "three.png")
    boxes = instances([[10, 5, 30, 25]], scores=[0.9])
    return StageResults(
        train=train,
        test=test,
        truths={"train": None, "test": None},
        proposals={"one.png": torch.tensor([[0.0, 0, 9, 9], [5, 5, 20, 20]]), "two.png": torch.zeros(0, 4)},
        pseudo_gt={"one.png": boxes, "two.png": Instances.empty(scored=True)},
        detections={"WSOD": {"three.png": boxes}, "masks": {"three.png": boxes}},
    )


def test_a_training_photo_has_its_way_to_the_labels(results: StageResults) -> None:
    captions = [caption for caption, _ in train_drawings(results, results.train.samples[0])]
    assert captions == ["best 2 of 2 proposals", "1 pseudo box"]
    split, sheet = draw_photo(results, "one")  # the ending may be left out
    assert split == "train" and sheet.width > 2 * SIDE and sheet.height < SIDE


def test_a_test_photo_has_its_detections(results: StageResults) -> None:
    assert results.test is not None
    drawings = detection_drawings(results, results.test.samples[0], side=60)
    assert [caption for caption, _ in drawings] == ["WSOD: 1 shown", "masks: 1 shown"]
    canvas = drawings[0][1].photo
    assert canvas.size == (60, 30) and canvas.getpixel((10, 15)) != (200, 200, 200)  # the box's left edge
    assert draw_photo(results, "three.png", columns=1)[1].height > 2 * SIDE / 2


def test_bad_wishes_are_one_sentence(results: StageResults, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found none called 'four'"):
        draw_photo(results, "four")
    with pytest.raises(UserError, match="found no finished stage"):
        draw_photo(StageResults(results.train, None, results.truths), "one.png")
    with pytest.raises(UserError, match=r"named .png or .jpg"):
        write_picture(tmp_path / "x.gif", draw_photo(results, "one")[1])
