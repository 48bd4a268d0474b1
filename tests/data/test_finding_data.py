"""What a run would take from a folder: splits and labels in the layouts that people have."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from weaksam.cli.commands import app
from weaksam.config import UserError, load_settings
from weaksam.data.dataset import load_splits
from weaksam.data.finding_data import find_splits, split_of
from weaksam.pipeline.settings import RunSettings


def draw(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)


def coco(path: Path, *names: str) -> Path:
    images = [{"id": number, "file_name": name, "width": 8, "height": 8} for number, name in enumerate(names, 1)]
    boxes = [{"id": n["id"], "image_id": n["id"], "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16} for n in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}))
    return path


def test_one_folder_and_a_table(tmp_path: Path) -> None:
    draw(*(tmp_path / "pics" / f"{name}.jpg" for name in "ab"))
    (tmp_path / "tags.csv").write_text("file,tags\na.jpg,cat\nb.jpg,dog\n")
    (tmp_path / "prices.csv").write_text("shop,price\nx,1\n")
    splits = find_splits(tmp_path)
    assert list(splits) == ["train"] and splits["train"].images == tmp_path / "pics"
    assert splits["train"].tags == tmp_path / "tags.csv" and splits["train"].truth is None
    assert (splits["train"].num_photos, splits["train"].num_labelled) == (2, 2)


def test_a_table_of_few_of_the_photos_is_not_theirs(tmp_path: Path) -> None:
    draw(*(tmp_path / f"{name}.jpg" for name in "abc"))
    (tmp_path / "some.csv").write_text("file,tags\na.jpg,cat\n")
    assert find_splits(tmp_path)["train"].tags is None  # a third of them
    (tmp_path / "some.csv").write_text("file,tags\na.jpg,cat\nb.jpg,cat\n")
    assert find_splits(tmp_path)["train"].tags == tmp_path / "some.csv"


def test_coco_of_two_splits_each_takes_its_own(tmp_path: Path) -> None:
    draw(*(tmp_path / "images" / split / f"{n}.jpg" for split in ("train2017", "val2017") for n in "ab"))
    train = coco(tmp_path / "annotations/instances_train2017.json", "a.jpg", "b.jpg")
    test = coco(tmp_path / "annotations/instances_val2017.json", "a.jpg", "b.jpg")
    splits = find_splits(tmp_path)
    assert splits["train"].images == tmp_path / "images/train2017" and splits["train"].truth == train
    assert splits["test"].images == tmp_path / "images/val2017" and splits["test"].truth == test
    assert splits["train"].tags is None


def test_yolo_beside_the_photos_of_each_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        draw(tmp_path / split / "images" / "a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    splits = find_splits(tmp_path)
    assert splits["train"].images == tmp_path / "train/images" and splits["train"].truth == tmp_path / "train/labels"
    assert splits["test"].truth == tmp_path / "valid/labels"


def test_voc_goes_by_its_lists(tmp_path: Path) -> None:
    draw(*(tmp_path / "JPEGImages" / f"{name}.jpg" for name in "abc"))
    draw(tmp_path / "SegmentationClass" / "a.png")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    (tmp_path / "Annotations").mkdir()
    splits = find_splits(tmp_path)
    assert splits["train"].tags == lists / "train.txt" and splits["train"].num_photos == 2
    assert splits["test"].tags == lists / "val.txt" and splits["test"].truth == tmp_path / "Annotations"
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    assert find_splits(tmp_path) == splits  # val is part of trainval: one trains on the rest to test on it
    (lists / "test.txt").write_text("a\n")
    assert [split.tags for split in find_splits(tmp_path).values()] == [lists / "trainval.txt", lists / "test.txt"]


def test_class_folders_and_pictures_that_are_no_photos(tmp_path: Path) -> None:
    draw(*(tmp_path / "photos" / kind / "1.jpg" for kind in ("cat", "dog")))
    draw(tmp_path / "masks" / "1.png")
    splits = find_splits(tmp_path)
    assert splits["train"].images == tmp_path / "photos" and splits["train"].num_labelled == 2
    assert splits["train"].tags is None


def test_a_test_split_without_truth_is_left_out(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "a.jpg", tmp_path / "test" / "b.jpg")
    (tmp_path / "tags.json").write_text(json.dumps({"a.jpg": ["cat"]}))
    assert list(find_splits(tmp_path)) == ["train"]


@pytest.mark.parametrize(
    ("name", "split"),
    [("train2017", "train"), ("instances_val.json", "test"), ("Training", "train"), ("trains", None), ("photos", None)],
)
def test_whose_a_name_says_it_is(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_missing_and_an_empty_folder_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wanted a folder to look at, found nothing there"):
        find_splits(tmp_path / "none")
    with pytest.raises(UserError, match="wanted photos"):
        find_splits(tmp_path)


def test_the_written_config_loads_what_was_found(tmp_path: Path) -> None:
    draw(*(tmp_path / "data" / split / f"{n}.jpg" for split in ("train", "test") for n in "ab"))
    coco(tmp_path / "data/train.json", "a.jpg", "b.jpg")
    coco(tmp_path / "data/test.json", "a.jpg", "b.jpg")
    config = tmp_path / "mine.yaml"
    result = CliRunner().invoke(app, ["init", str(tmp_path / "data"), "--config", str(config)])
    assert result.exit_code == 0, result.output
    assert f"next: weaksam data check {config}, then weaksam run {config}" in result.output
    train, test = load_splits(load_settings(RunSettings, config).data)
    assert len(train) == 2 and test is not None and len(test) == 2 and train.classes == ("cat",)
    again = CliRunner().invoke(app, ["init", str(tmp_path / "data"), "--config", str(config)])
    assert again.exit_code != 0 and "found it there already" in again.output


def test_photos_without_tags_get_a_config_for_proposals(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    config = tmp_path / "mine.yaml"
    result = CliRunner().invoke(app, ["init", str(tmp_path), "--config", str(config)])
    assert result.exit_code == 0 and "next: weaksam proposals" in result.output
    assert yaml.safe_load(config.read_text())["data"]["without_tags"] is True
