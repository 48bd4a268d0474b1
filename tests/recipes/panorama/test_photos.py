"""Photos and class maps as the data sets lay them out, on files written here; and what does not fit, in a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from weaksam.config import UserError
from weaksam.recipes.panorama.layouts import CITYSCAPES, STANFORD
from weaksam.recipes.panorama.photos import load_panoramas, load_semantic
from weaksam.recipes.panorama.settings import PanoramaData, SemanticSplit


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def photo(size: tuple[int, int] = (16, 32), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3))


def data(tmp_path: Path, layout: str = "plain", **more: object) -> PanoramaData:
    given = {"images": tmp_path / "images", "labels": tmp_path / "labels"}
    return PanoramaData(test=SemanticSplit(**given), layout=layout, **more)


def test_a_plain_folder(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (16, 32))
    labels[0, 0] = 255
    save(tmp_path / "images" / "a" / "1.png", photo())
    save(tmp_path / "labels" / "a" / "1.png", labels)
    photos = load_panoramas(data(tmp_path, classes=("x", "y", "z")), "test", labelled=True)
    assert len(photos) == 1 and photos.pixels(0).shape == (3, 16, 32)
    assert np.array_equal(photos.true_map(0), labels) and torch.equal(photos.labels_at(0), torch.from_numpy(labels))
    smaller = load_panoramas(data(tmp_path, classes=("x", "y", "z"), height=32), "test", labelled=True)
    assert smaller.pixels(0).shape == (3, 32, 64) and smaller.labels_at(0)[::2, ::2].tolist() == labels.tolist()
    assert smaller.fingerprint != photos.fingerprint


@pytest.mark.parametrize("layout", ["densepass", "wildpass"])
def test_densepass_and_wildpass(tmp_path: Path, layout: str) -> None:
    save(tmp_path / "images" / "7_.png", photo((25, 128)))
    save(tmp_path / "images" / "preview.png", photo((25, 128)))
    labels = np.full((25, 128), 7)
    save(tmp_path / "labels" / "7_labelTrainIds.png", labels)
    given = data(tmp_path, layout, vertical_degrees=70.3125, height=100, classes=None)
    if layout == "wildpass":
        with pytest.raises(UserError, match=r"set data\.classes"):
            load_panoramas(given, "test", labelled=True)
        given = given.model_copy(update={"classes": tuple("abcdefgh")})
    photos = load_panoramas(given, "test", labelled=True)
    assert photos.dataset.image_ids == ("7_.png",) and photos.size(0) == (100, 512)
    assert photos.classes == (CITYSCAPES if layout == "densepass" else tuple("abcdefgh"))
    assert np.array_equal(photos.true_map(0), labels)


def test_stanford2d3d(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps(["<UNK>_0_<UNK>_0_0", "wall_1_hallway_1_1", "beam_2_office_3_2"]))
    for area in ("area_1", "area_2"):
        save(tmp_path / area / "pano" / "rgb" / "camera_x_rgb.png", photo())
        numbers = np.zeros((16, 32, 3))
        numbers[:8, :, 2], numbers[8:, :16, 2] = 1, 2
        numbers[15] = 13  # 0x0D0D0D, which Stanford2D3D has where nothing was seen
        save(tmp_path / area / "pano" / "semantic" / "camera_x_semantic.png", numbers)
    split = SemanticSplit(images=tmp_path, labels=tmp_path, folders=("area_2",))
    given = PanoramaData(test=split, layout="stanford2d3d", label_names=tmp_path / "names.json")
    photos = load_panoramas(given, "test", labelled=True)
    assert photos.dataset.image_ids == ("area_2/pano/rgb/camera_x_rgb.png",) and photos.classes == STANFORD
    truth = photos.true_map(0)
    assert (truth[:8] == STANFORD.index("wall")).all() and (truth[8:15, :16] == STANFORD.index("beam")).all()
    assert (truth[8:15, 16:] == 255).all() and (truth[15] == 255).all()
    with pytest.raises(UserError, match=r"data\.label_names"):
        load_panoramas(given.model_copy(update={"label_names": None}), "test", labelled=True)
    for content in ("{}", "[" * 100_000, ""):
        (tmp_path / "names.json").write_text(content)
        with pytest.raises(UserError, match=r"data\.label_names"):
            load_panoramas(given, "test", labelled=True)


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    classes = ("x", "y")
    save(tmp_path / "images" / "1.png", photo((16, 40)))
    with pytest.raises(UserError, match=r"found 1\.png of 40 x 16 pixels: set data\.vertical_degrees .* \(144 if"):
        load_panoramas(data(tmp_path, classes=classes), "test", labelled=False)
    wide = data(tmp_path, classes=classes, vertical_degrees=144)
    with pytest.raises(UserError, match="found 1 missing"):
        load_panoramas(wide, "test", labelled=True)
    save(tmp_path / "labels" / "1.png", np.full((16, 40), 2))
    with pytest.raises(UserError, match=r"found 2: set data\.classes"):
        load_panoramas(wide, "test", labelled=True).true_map(0)
    save(tmp_path / "labels" / "1.png", np.full((8, 20), 1))
    with pytest.raises(UserError, match="found 20 x 8"):
        load_panoramas(wide, "test", labelled=True).true_map(0)
    save(tmp_path / "labels" / "1.png", photo((16, 40)))
    with pytest.raises(UserError, match="one number a pixel"):
        load_panoramas(wide, "test", labelled=True).true_map(0)
    (tmp_path / "labels" / "1.png").write_text("no picture")
    with pytest.raises(UserError, match="none that can be read"):
        load_panoramas(wide, "test", labelled=True).true_map(0)
    with pytest.raises(UserError, match="layout densepass"):
        load_panoramas(data(tmp_path, "densepass", vertical_degrees=144), "test", labelled=True)
    with pytest.raises(UserError, match=r"set data\.test\.labels"):
        load_semantic(
            PanoramaData(test=SemanticSplit(images=tmp_path / "images"), classes=classes), "test", labelled=True
        )
    with pytest.raises(UserError, match="multiples of 4"):
        load_panoramas(data(tmp_path, classes=classes, vertical_degrees=144, height=34), "test", labelled=False)
    with pytest.raises(UserError, match=r"data\.photos\.images"):
        load_semantic(data(tmp_path, classes=classes), "photos", labelled=True)
