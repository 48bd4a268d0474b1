"""Clues of photos without tags, such as test photos: the classes that are predicted, learnt once, from tags alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import context, draw_discs, part_file
from weaksam.data.dataset import SplitSettings, load_dataset, load_photos
from weaksam.models.weaktr.network import WeakTrSettings
from weaksam.stages import clues
from weaksam.stages.clues import ClueSettings
from weaksam.stages.clues.weaktr_training import WeakTrTrainingSettings
from weaksam.store.store import Store
from weaksam.structures.dataset import Dataset

CAM = ClueSettings(long_side=128)
WEAKTR = ClueSettings(
    source="weaktr",
    weaktr=WeakTrSettings(width=16, depth=2, num_heads=2, image_size=32, drop_path=0.0),
    weaktr_training=WeakTrTrainingSettings(num_epochs=1, batch_size=6, image_size=32, held_out=0),
    cross_layers=(1, 2),
    max_side=64,
)


@pytest.fixture
def train(tmp_path: Path) -> Dataset:
    return draw_discs(tmp_path / "train", num=6)


@pytest.fixture
def test(tmp_path: Path, train: Dataset) -> Dataset:
    """The training photos mirrored, under names of their own, and a black one of one pixel's height; no tags."""
    folder = tmp_path / "test"
    folder.mkdir()
    for sample in train:
        mirrored = Image.open(sample.path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.save(folder / f"mirrored_{sample.image_id}")
    Image.fromarray(np.zeros((1, 40, 3), np.uint8)).save(folder / "thin.png")
    photos = load_photos(SplitSettings(images=folder), name="test")
    return dataclasses.replace(photos, classes=train.classes, category_ids=train.category_ids)


def labels_by_photo(store: Store) -> dict[str, list[int]]:
    return {row["image_id"]: row["labels"].tolist() for row in store.rows("labels")}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("settings", [CAM, WEAKTR, CAM.model_copy(update={"finetune_epochs": 1})])
@pytest.mark.parametrize(("min_score", "mapped"), [(0.0, [0, 1]), (1.0, [])])
def test_a_test_photo_is_mapped_for_the_classes_that_score(
    train: Dataset, test: Dataset, tmp_path: Path, settings: ClueSettings, min_score: float, mapped: list[int]
) -> None:
    settings = settings.model_copy(update={"min_score": min_score})
    run_context = context(tmp_path / "out", train, test=test)
    tagged = clues.run(run_context, settings, train, "train")
    assert labels_by_photo(tagged) == {sample.image_id: list(sample.tags) for sample in train}
    store = clues.run(run_context, settings, test, "test")
    labels_of = labels_by_photo(store)
    labels_of.pop("thin.png")  # a class may well score 1.0 on a line of pixels
    assert labels_of == {image_id: mapped for image_id in test.image_ids[:-1]}
    points, labels, _ = clues.clue_points(store)("mirrored_02.png")
    assert set(labels.tolist()) - {-1} <= set(mapped) and bool(len(points)) == bool(mapped)


def test_the_threshold_lies_between_the_scores(train: Dataset, test: Dataset, tmp_path: Path) -> None:
    run_context = context(tmp_path / "out", train, test=test)
    scores = clues.run(run_context, CAM, test, "test").column("class_scores")
    cut = float(torch.cat(list(scores.values())).median())
    store = clues.run(run_context, CAM.model_copy(update={"min_score": cut}), test, "test")
    wanted = {image_id: (values >= cut).nonzero()[:, 0].tolist() for image_id, values in scores.items()}
    assert labels_by_photo(store) == wanted
    assert len({tuple(labels) for labels in wanted.values()}) > 1


@pytest.mark.parametrize("settings", [CAM, WEAKTR, CAM.model_copy(update={"finetune_epochs": 1})])
def test_what_was_learnt_once_serves_all_splits(
    train: Dataset, test: Dataset, tmp_path: Path, settings: ClueSettings
) -> None:
    tagged = clues.run(context(tmp_path / "out", train, test=test), settings, train, "train")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    # Without the training photos nothing can be learnt again
    (tmp_path / "train" / "photos").rename(tmp_path / "away")
    first = clues.run(context(tmp_path / "out", train, test=test), settings, test, "test")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    (tmp_path / "away").rename(tmp_path / "train" / "photos")
    # The test photos first, then the training photos: the same bytes
    other = context(tmp_path / "other", train, test=test)
    second = clues.run(other, settings, test, "test")
    assert contents(second.folder) == contents(first.folder)
    assert contents(clues.run(other, settings, train, "train").folder) == contents(tagged.folder)


def test_a_killed_store_resumes_to_the_same_bytes(train: Dataset, test: Dataset, tmp_path: Path) -> None:
    settings = CAM.model_copy(update={"min_score": 0.0})
    run_context = context(tmp_path / "out", train, test=test)
    for dataset, split in ((train, "train"), (test, "test")):
        store = clues.run(run_context, settings, dataset, split)
        whole = contents(store.folder)
        for name in ("manifest.json", part_file(store.folder).name):
            (store.folder / name).unlink()
        assert contents(clues.run(run_context, settings, dataset, split).folder) == whole


def test_the_switch_changes_no_fingerprint(train: Dataset, tmp_path: Path) -> None:
    store = clues.run(context(tmp_path / "out", train), CAM, train, "train")
    switched = CAM.model_copy(update={"test_photos": False})
    assert CAM.test_photos
    assert clues.run(context(tmp_path / "out", train), switched, train, "train").folder == store.folder


# Heat maps from files


def write_map(folder: Path, name: str, label: str) -> None:
    (folder / name).mkdir(parents=True)
    np.save(folder / name / f"{label}.npy", np.eye(24, dtype=np.float32))


def test_heat_maps_of_test_photos_are_optional(train: Dataset, test: Dataset, tmp_path: Path) -> None:
    write_map(tmp_path / "maps", "mirrored_03", "blue")
    settings = ClueSettings(source="files", heat_maps=tmp_path / "maps")
    store = clues.run(context(tmp_path / "out", train, test=test), settings, test, "test")
    assert labels_by_photo(store) == {image_id: [0] * (image_id == "mirrored_03.png") for image_id in test.image_ids}
    points_of = clues.clue_points(store)
    assert len(points_of("mirrored_03.png").points) and not len(points_of("mirrored_02.png").points)


@pytest.mark.parametrize("name", ["00.png", "00.jpg"])
def test_a_test_photo_gets_no_heat_map_of_a_training_photo_of_its_name(
    train: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for sample in train:
        write_map(tmp_path / "maps", sample.image_id.removesuffix(".png"), "red")
    (tmp_path / "test").mkdir()
    Image.open(train.samples[1].path).save(tmp_path / "test" / name)
    photos = load_photos(SplitSettings(images=tmp_path / "test"), name="test")
    test = dataclasses.replace(photos, classes=train.classes, category_ids=train.category_ids)
    settings = ClueSettings(source="files", heat_maps=tmp_path / "maps")
    store = clues.run(context(tmp_path / "out", train, test=test), settings, test, "test")
    assert labels_by_photo(store) == {name: []}
    assert f"1 of 1 photos have the name of a training photo (first: {name})" in capsys.readouterr().err
    # The same photo in both splits has the maps that were made for it
    same = dataclasses.replace(train, samples=tuple(dataclasses.replace(s, tags=()) for s in train))
    assert labels_by_photo(clues.run(context(tmp_path / "out", train), settings, same, "test"))["00.png"] == [1]


def test_the_tags_of_photos_that_have_them_are_believed(train: Dataset, tmp_path: Path) -> None:
    """A training photo with an empty row of tags is mapped as predicted, the others as tagged."""
    rows = (tmp_path / "train" / "tags.csv").read_text().replace("05.png,red;blue", "05.png,")
    (tmp_path / "train" / "tags.csv").write_text(rows)
    photos = SplitSettings(images=tmp_path / "train" / "photos", tags=tmp_path / "train" / "tags.csv")
    dataset = load_dataset(photos, name="train")
    store = clues.run(context(tmp_path / "out", dataset), CAM.model_copy(update={"min_score": 0.0}), dataset, "train")
    labels = labels_by_photo(store)
    assert labels["05.png"] == [0, 1] and labels["00.png"] == [1]
    assert json.loads((store.folder / "manifest.json").read_text())["fingerprint"] == store.fingerprint
