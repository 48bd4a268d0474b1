"""Every source of clues behind the one interface: WeakTr, heat maps from files, other CNNs; and what each refuses."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import context, draw_discs
from weaksam.config import UserError
from weaksam.data.heat_maps import read_heat_maps
from weaksam.models.weaktr.build import build_weaktr
from weaksam.models.weaktr.checkpoints import save_weaktr
from weaksam.models.weaktr.network import WeakTrSettings
from weaksam.stages import clues
from weaksam.stages.clues import ClueSettings, photo_peaks
from weaksam.stages.clues.files import FilesSource
from weaksam.stages.clues.weaktr import WeakTrSource
from weaksam.stages.clues.weaktr_training import WeakTrTrainingSettings
from weaksam.structures.clue_points import COARSE, CROSS, FINE
from weaksam.structures.dataset import Dataset

TINY = WeakTrSettings(width=16, depth=2, num_heads=2, image_size=32, drop_path=0.0)
BRIEF = WeakTrTrainingSettings(num_epochs=1, batch_size=6, image_size=32, held_out=0)
WEAKTR = ClueSettings(source="weaktr", weaktr=TINY, weaktr_training=BRIEF, cross_layers=(1, 2), max_side=64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_discs(tmp_path_factory.mktemp("discs"), num=6)


# WeakTr


def test_weaktr_gives_all_three_kinds_for_the_tags_alone(dataset: Dataset, tmp_path: Path) -> None:
    store = clues.run(context(tmp_path, dataset), WEAKTR, dataset, "train")
    points_of, maps_of, best_of = clues.clue_points(store), clues.kind_maps(store), clues.class_maps(store)
    kinds = set()
    for sample in dataset:
        labels, maps = maps_of(sample.image_id)
        assert labels.tolist() == list(sample.tags) and set(maps) == {COARSE, FINE, CROSS}
        assert maps[FINE].shape == (len(labels), 3, 4)  # 96 x 128 shrunk to 48 x 64
        assert torch.equal(best_of(sample.image_id)[1], maps[FINE])
        points, owners, found_on = points_of(sample.image_id)
        assert set(owners[found_on != CROSS].tolist()) <= set(sample.tags)
        assert (owners[found_on == CROSS] == -1).all()
        assert (points >= 0).all() and (points <= torch.tensor([128.0, 96.0])).all()
        kinds |= set(found_on.tolist())
    assert kinds == {COARSE, FINE, CROSS}
    again = clues.run(context(tmp_path, dataset), WEAKTR, dataset, "train")
    assert again.fingerprint == store.fingerprint


def prepared(dataset: Dataset, tmp_path: Path, **changes: object) -> WeakTrSource:
    source = WeakTrSource(context(tmp_path, dataset), WEAKTR.model_copy(update=changes), dataset)
    source.prepare(tmp_path, "")
    return source


def test_a_mirrored_photo_has_mirrored_maps(dataset: Dataset, tmp_path: Path) -> None:
    source = prepared(dataset, tmp_path)
    sample = dataset.samples[2]
    image = Image.open(sample.path)
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    turned = dataclasses.replace(sample, path=tmp_path / "mirrored.png", sha256="")
    other = dataclasses.replace(dataset, samples=(turned,))
    plain, mirrored = source.map_classes(dataset, sample.image_id), source.map_classes(other, sample.image_id)
    for kind in (COARSE, FINE, CROSS):
        for plain_map, mirrored_map in zip(plain.kinds[kind], mirrored.kinds[kind], strict=True):
            torch.testing.assert_close(plain_map, mirrored_map.flip(-1), rtol=1e-3, atol=1e-5)


def test_the_six_views_are_three_forward_passes(dataset: Dataset, tmp_path: Path) -> None:
    source = prepared(dataset, tmp_path)
    shapes: list[tuple[int, ...]] = []
    source.model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    maps = source.map_classes(dataset, dataset.image_ids[0])
    assert shapes == [(2, 3, 48, 64), (2, 3, 32, 48), (2, 3, 64, 80)]
    assert [head_maps.shape for head_maps in maps.kinds[CROSS]] == [(4, 1, 3, 4), (4, 1, 2, 3), (4, 1, 4, 5)]


def test_the_range_of_layers_chooses_the_cross_attention(dataset: Dataset, tmp_path: Path) -> None:
    def cross(first: int, last: int) -> torch.Tensor:
        source = prepared(dataset, tmp_path, cross_layers=(first, last), scales=(1.0,))
        return source.map_classes(dataset, dataset.image_ids[0]).kinds[CROSS][0]

    first, second, both = cross(1, 1), cross(2, 2), cross(1, 2)
    assert first.shape[0] == second.shape[0] == 2 and torch.equal(both, torch.cat([first, second]))
    assert not torch.allclose(first, second)
    with pytest.raises(UserError, match="blocks 5 to 12, found a network of 2 blocks"):
        prepared(dataset, tmp_path, cross_layers=(5, 12))


def test_a_photo_without_tags_gets_the_classes_that_score(dataset: Dataset, tmp_path: Path) -> None:
    untagged = dataclasses.replace(dataset, samples=tuple(dataclasses.replace(s, tags=()) for s in dataset))
    source = prepared(dataset, tmp_path, min_score=0.0)
    assert source.map_classes(untagged, dataset.image_ids[0]).labels.tolist() == [0, 1]
    source.settings = source.settings.model_copy(update={"min_score": 1.0})
    nothing = source.map_classes(untagged, dataset.image_ids[0])
    assert nothing.labels.tolist() == [] and len(photo_peaks(nothing, source.settings).points) == 0
    assert WEAKTR.class_threshold == 0.3775 and ClueSettings().class_threshold == 0.5


def test_a_photo_smaller_than_a_patch_is_refused_before_any_training(dataset: Dataset, tmp_path: Path) -> None:
    small = dataclasses.replace(dataset.samples[0], size=(9, 300))
    with pytest.raises(UserError, match=r"at least one patch, 16 x 16 pixels, found .* of 300 x 9"):
        prepared(dataclasses.replace(dataset, samples=(small, *dataset.samples[1:])), tmp_path)
    assert not list(tmp_path.glob("clues/*"))


def test_a_checkpoint_is_taken_as_it_is_and_one_of_other_classes_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    save_weaktr(build_weaktr(TINY, 2), tmp_path / "two.safetensors", "")
    save_weaktr(build_weaktr(TINY, 3), tmp_path / "three.safetensors", "")
    ready = BRIEF.model_copy(update={"num_epochs": 0})

    def source(name: str) -> WeakTrSource:
        weaktr = TINY.model_copy(update={"weights": str(tmp_path / name)})
        return prepared(dataset, tmp_path, weaktr=weaktr, weaktr_training=ready)

    assert source("two.safetensors").map_classes(dataset, dataset.image_ids[0]).labels.tolist() == list(
        dataset.samples[0].tags
    )
    with pytest.raises(UserError, match="WeakTr of 2 classes, found one of 3"):
        source("three.safetensors")


# The tags


@pytest.mark.parametrize("settings", [ClueSettings(long_side=64), WEAKTR])
def test_tags_that_teach_nothing_are_refused(settings: ClueSettings, dataset: Dataset, tmp_path: Path) -> None:
    more = dataclasses.replace(dataset, classes=("red", "blue", "green"), category_ids=(1, 2, 3))
    with pytest.raises(UserError, match="wanted a photo tagged 'green'"):
        clues.run(context(tmp_path, more), settings, more, "train")
    red = tuple(dataclasses.replace(sample, tags=(0,)) for sample in dataset)
    one_class = dataclasses.replace(dataset, classes=("red",), category_ids=(1,), samples=red)
    with pytest.raises(UserError, match="found 'red' on every photo"):
        clues.run(context(tmp_path, one_class), settings, one_class, "train")


# Other CNNs


def test_another_cnn_maps_the_classes(dataset: Dataset, tmp_path: Path) -> None:
    settings = ClueSettings(long_side=128, network="resnet18", network_weights="none", scales=(1.0, 1.5))
    store = clues.run(context(tmp_path, dataset), settings, dataset, "train")
    labels, maps = clues.class_maps(store)(dataset.image_ids[2])
    assert labels.tolist() == [0, 1] and maps.shape == (2, 3, 4)


# Heat maps from files


def write_maps(folder: Path, dataset: Dataset, side: int = 24) -> None:
    """A map with one spot for every photo and tag: red at the top left as .npy, blue at the bottom right as .png."""
    for sample in dataset:
        place = folder / Path(sample.image_id).with_suffix("")
        place.mkdir(parents=True)
        for label in sample.tags:
            values = np.zeros((side, side), np.float32)
            values[(2, 2) if label == dataset.classes.index("red") else (20, 20)] = 200
            if label == dataset.classes.index("red"):
                np.save(place / "red.npy", values)
            else:
                Image.fromarray(values.astype(np.uint8)).save(place / "blue.png")


def test_heat_maps_of_your_own(dataset: Dataset, tmp_path: Path) -> None:
    write_maps(tmp_path / "maps", dataset)
    settings = ClueSettings(source="files", heat_maps=tmp_path / "maps")
    store = clues.run(context(tmp_path, dataset), settings, dataset, "train")
    for sample in dataset:
        points, labels, kinds = clues.clue_points(store)(sample.image_id)
        assert labels.tolist() == list(sample.tags) and kinds.tolist() == [COARSE] * len(labels)
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
            spot = (2.5, 2.5) if dataset.classes[label] == "red" else (20.5, 20.5)
            assert (x, y) == pytest.approx((spot[0] / 24 * 128, spot[1] / 24 * 96), abs=3)
    # Other maps are other clues
    np.save(tmp_path / "maps" / "00" / "red.npy", np.eye(24, dtype=np.float32))
    assert clues.run(context(tmp_path, dataset), settings, dataset, "train").fingerprint != store.fingerprint


def test_a_heat_map_that_changed_since_its_fingerprint_was_taken_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    write_maps(tmp_path, dataset)
    source = FilesSource(ClueSettings(source="files", heat_maps=tmp_path), dataset, dataset)
    assert source.inputs["heat maps"]
    sample = next(sample for sample in dataset if dataset.classes[sample.tags[0]] == "red")
    path = tmp_path / Path(sample.image_id).stem / "red.npy"
    whole = path.read_bytes()
    np.save(path, np.ones((24, 24), np.float32))
    with pytest.raises(UserError, match=r"red\.npy as it was, found other bytes"):
        source.map_classes(dataset, sample.image_id)
    path.write_bytes(whole)
    assert source.map_classes(dataset, sample.image_id).labels.tolist() == list(sample.tags)


def test_folders_of_kinds(dataset: Dataset, tmp_path: Path) -> None:
    write_maps(tmp_path / "maps" / "fine", dataset)
    write_maps(tmp_path / "maps" / "cross", dataset)
    np.save(tmp_path / "maps" / "cross" / "00" / "red.npy", np.ones((4, 8, 8), np.float32) * np.eye(8))
    settings = ClueSettings(source="files", heat_maps=tmp_path / "maps")
    store = clues.run(context(tmp_path, dataset), settings, dataset, "train")
    assert set(clues.clue_points(store)("00.png").kinds.tolist()) == {FINE, CROSS}


def test_missing_and_strange_heat_maps_are_one_sentence(dataset: Dataset, tmp_path: Path) -> None:
    settings = ClueSettings(source="files", heat_maps=tmp_path / "maps")
    with pytest.raises(UserError, match="wanted a folder of heat maps"):
        clues.run(context(tmp_path, dataset), settings, dataset, "train")
    write_maps(tmp_path / "maps", dataset)
    (tmp_path / "maps" / "00" / "red.npy").rename(tmp_path / "maps" / "00" / "rde.npy")
    with pytest.raises(UserError, match=r"named after the classes .*rde\.npy"):
        clues.run(context(tmp_path, dataset), settings, dataset, "train")
    (tmp_path / "maps" / "00" / "rde.npy").unlink()
    with pytest.raises(UserError, match=r"wanted a heat map of red for 00\.png at .*red\.npy"):
        clues.run(context(tmp_path, dataset), settings, dataset, "train")
    with pytest.raises(ValueError, match=r"set clues\.heat_maps"):
        ClueSettings(source="files")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros(5), "an array of shape"),
        (np.zeros((0, 4)), "an array of shape"),
        (np.full((2, 2), np.nan), "nan or infinity"),
        (np.array([["a"]]), "found <U1"),
    ],
)
def test_arrays_that_are_no_heat_map(values: np.ndarray, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UserError, match=said):
        read_heat_maps(tmp_path / "a.npy")


def test_files_that_hold_objects_claim_too_much_or_are_cut_short(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object))
    with pytest.raises(UserError, match="found object"):
        read_heat_maps(tmp_path / "objects.npy")
    np.save(tmp_path / "cut.npy", np.zeros((9, 9)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-8])
    with pytest.raises(UserError, match="found 640 bytes"):
        read_heat_maps(tmp_path / "cut.npy")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.npy", "text.png"):
        with pytest.raises(UserError, match="write it again"):
            read_heat_maps(tmp_path / name)
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match=r"grey heat map .* mode RGB"):
        read_heat_maps(tmp_path / "colour.png")
    Image.fromarray(np.full((2, 3), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert read_heat_maps(tmp_path / "deep.png").tolist() == [[[65535.0] * 3] * 2]


def test_a_second_heat_map_of_a_class_and_a_second_photo_of_a_folder_are_one_sentence(
    dataset: Dataset, tmp_path: Path
) -> None:
    settings = ClueSettings(source="files", heat_maps=tmp_path / "maps")
    for sample in dataset:
        folder = tmp_path / "maps" / Path(sample.image_id).stem
        folder.mkdir(parents=True)
        for label in sample.tags:
            np.save(folder / f"{dataset.classes[label]}.npy", np.eye(4, dtype=np.float32))
    clues.run(context(tmp_path / "out", dataset), settings, dataset, "train")
    twice = tmp_path / "maps" / Path(dataset.image_ids[0]).stem / f"{dataset.classes[dataset.samples[0].tags[0]]}.PNG"
    Image.new("L", (4, 4)).save(twice, format="PNG")
    with pytest.raises(UserError, match=rf"wanted one heat map for each class, found .*{twice.stem}\.PNG"):
        clues.run(context(tmp_path / "again", dataset), settings, dataset, "train")
    twin = dataclasses.replace(dataset.samples[1], image_id="00.jpeg")
    twins = dataclasses.replace(dataset, samples=(dataset.samples[0], twin))
    with pytest.raises(UserError, match=r"00\.png and 00\.jpeg would share one"):
        clues.run(context(tmp_path / "twins", twins), settings, twins, "train")


def test_numbers_beyond_float32_are_one_sentence(tmp_path: Path) -> None:
    for name, value, said in (("big", 1e300, "too large for float32"), ("nan", np.nan, "found nan or infinity")):
        np.save(tmp_path / f"{name}.npy", np.full((2, 2), value))
        with pytest.raises(UserError, match=said):
            read_heat_maps(tmp_path / f"{name}.npy")
    np.save(tmp_path / "largest.npy", np.full((2, 2), np.finfo(np.float32).max, dtype=np.float64))
    assert torch.isfinite(read_heat_maps(tmp_path / "largest.npy")).all()
