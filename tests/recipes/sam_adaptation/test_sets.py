"""Each config of configs/adapt_sam loads, holds only what differs, and reads a set laid out as the published one."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.helpers import ROOT
from weaksam.config import UserError, load_settings
from weaksam.data.formats.mask_pictures import MaskPictures, read_mask_pictures
from weaksam.recipes.sam_adaptation import AdaptSettings
from weaksam.recipes.sam_adaptation.instances import divided
from weaksam.recipes.sam_adaptation.recipe import measured_photos, training_photos
from weaksam.structures.dataset import Sample
from weaksam.structures.masks import mask_from_rle

CONFIGS = sorted((ROOT / "configs" / "adapt_sam").glob("*.yaml"))
SIZE = (24, 32)


def photo(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def picture(path: Path, values: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def two_objects(high: int = 255) -> np.ndarray:
    """One picture with two rectangles of white, 6 x 5 at the upper left and 4 x 8 further right."""
    values = np.zeros(SIZE, np.uint8)
    values[2:8, 3:8] = values[10:14, 20:28] = high
    return values


def coco(data: Path) -> None:
    images, annotations = [], []
    for number in range(14):
        photo(data / "coco" / "val2017" / f"{number:012d}.jpg", number)
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": SIZE[0], "width": SIZE[1]})
        polygon = [3.0, 2.0, 8.0, 2.0, 8.0, 8.0, 3.0, 8.0]
        entry = {"id": number + 1, "image_id": number, "category_id": 1, "segmentation": [polygon], "iscrowd": 0}
        annotations.append({**entry, "bbox": [3, 2, 5, 6], "area": 30})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    path = data / "coco" / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))


def voc12(data: Path) -> None:
    root = data / "VOCdevkit" / "VOC2012"
    for number in range(16):
        photo(root / "JPEGImages" / f"2007_{number:06d}.jpg", number)
        if number < 14:  # the last two have no picture
            values = np.zeros(SIZE, np.uint8)
            values[2:8, 3:8], values[10:14, 20:28], values[0] = 1, 2, 255
            picture(root / "SegmentationObject" / f"2007_{number:06d}.png", values)
            picture(
                root / "SegmentationClass" / f"2007_{number:06d}.png", np.where(values == 255, 255, values * 5 % 20)
            )


def kvasir(data: Path) -> None:
    boxes = {}
    for number in range(12):
        photo(data / "Kvasir-SEG" / "images" / f"k{number:02d}.jpg", number)
        picture(data / "Kvasir-SEG" / "masks" / f"k{number:02d}.jpg", np.stack([two_objects()] * 3, 2), quality=98)
        corners = [(1, 1, 12, 9), (18, 9, 30, 15)]
        listed = [dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)) for box in corners]
        boxes[f"k{number:02d}"] = {"height": SIZE[0], "width": SIZE[1], "bbox": listed}
    (data / "Kvasir-SEG" / "kavsir_bboxes.json").write_text(json.dumps(boxes))


def isic(data: Path) -> None:
    for split, num in (("Training", 3), ("Test", 2)):
        for number in range(num):
            photo(data / "ISIC2016" / f"ISBI2016_ISIC_Part1_{split}_Data" / f"ISIC_{number:07d}.jpg", number + 10 * num)
            folder = data / "ISIC2016" / f"ISBI2016_ISIC_Part1_{split}_GroundTruth"
            picture(folder / f"ISIC_{number:07d}_Segmentation.png", two_objects())


def cod10k(data: Path) -> None:
    for number in range(10):
        kind = "CAM" if number < 5 else "NonCAM"
        name = f"COD10K-{kind}-1-Aquatic-{number}"
        photo(data / "COD10K-v3" / "Test" / "Image" / f"{name}.jpg", number)
        picture(data / "COD10K-v3" / "Test" / "GT_Object" / f"{name}.png", two_objects() * (kind == "CAM"))


def camo(data: Path) -> None:
    for split, num in (("Train", 3), ("Test", 2)):
        for number in range(num):
            name = f"camourflage_{split}{number:05d}"
            photo(data / "CAMO-V.1.0-CVIU2019" / "Images" / split / f"{name}.jpg", number + 10 * num)
            picture(data / "CAMO-V.1.0-CVIU2019" / "GT" / f"{name}.png", two_objects(1))


def ocid(data: Path) -> None:
    for number in range(14):
        scene = "table" if number % 2 else "floor"
        folder = data / "OCID-dataset" / "ARID20" / scene / "top" / "seq01"
        photo(folder / "rgb" / f"result_{number:02d}.png", number)
        values = np.ones(SIZE, np.uint16)
        values[2:8, 3:8], values[10:14, 20:28] = (3, 4) if scene == "table" else (2, 3)
        values[20:] = 2 if scene == "table" else 0
        picture(folder / "label" / f"result_{number:02d}.png", values)


def osd(data: Path) -> None:
    for number in range(7):
        photo(data / "OSD-0.2" / "image_color" / f"test{number}.png", number)
        values = np.ones(SIZE, np.uint8)
        values[2:8, 3:8], values[10:14, 20:28], values[20:] = 2, 3, 0
        picture(data / "OSD-0.2" / "annotation" / f"test{number}.png", values)


SETS = {
    "coco": (coco, 12, 2, [30]),
    "voc12": (voc12, 12, 2, [30, 32]),
    "kvasir": (kvasir, 10, 2, [30, 32]),
    "isic": (isic, 3, 2, [62]),
    "cod10k": (cod10k, 4, 1, [62]),
    "camo": (camo, 3, 2, [62]),
    "ocid": (ocid, 12, 2, [30, 32]),
    "osd": (osd, 6, 1, [30, 32]),
}
"""By config: what writes the set, how many photos are adapted to and measured on, and the areas of their objects."""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_reads_its_set(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, num_adapted, num_measured, areas = SETS[path.stem]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data")
    settings = load_settings(AdaptSettings, path, ["seed=7"])
    adapted, _ = training_photos(settings)
    measured = measured_photos(settings)
    assert measured is not None and (len(adapted), len(measured)) == (num_adapted, num_measured)
    assert {sample.sha256 for sample in adapted.samples}.isdisjoint(sample.sha256 for sample in measured.samples)
    for photos in (adapted, measured):
        for instances in photos.instances:
            assert instances.masks is not None
            assert sorted(int(mask_from_rle(rle).sum()) for rle in instances.masks) == areas
        assert len(photos.view(0, 256).masks) == len(areas)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_writes_no_default_again(path: Path) -> None:
    defaults = AdaptSettings().model_dump(mode="json")
    repeated = [key for key, value in yaml.safe_load(path.read_text()).items() if defaults[key] == value]
    assert repeated == []


def test_every_published_set_has_a_config() -> None:
    assert {path.stem for path in CONFIGS} == set(SETS)


@pytest.mark.parametrize(
    ("num", "rule", "adapted", "measured"),
    [(5000, "6:1", 4286, 714), (2913, "6:1", 2497, 416), (1000, "5:1", 834, 166), (2026, "4:1", 1621, 405),
     (2390, "6:1", 2049, 341), (111, "6:1", 96, 15), (3, "6:1", 3, 0)],
)  # fmt: skip
def test_the_split_rule_gives_the_published_sizes(num: int, rule: str, adapted: int, measured: int) -> None:
    samples = [Sample(f"{number:05d}.jpg", Path(), (1, 1), (), None, 0) for number in range(num)]
    some, others = divided(samples, rule)
    assert (len(some), len(others)) == (adapted, measured)
    assert sorted([*some, *others], key=lambda sample: sample.image_id) == samples
    assert not others or others[0] is samples[int(rule[0])]


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "a.png")
    sample = Sample("a.png", tmp_path / "photos" / "a.png", SIZE, (), None, 0)
    masks = tmp_path / "masks"
    with pytest.raises(UserError, match="wanted a folder of pictures"):
        read_mask_pictures(MaskPictures(folder=masks), {"a.png": sample})
    masks.mkdir()
    with pytest.raises(UserError, match=r"none named as a\.png"):
        read_mask_pictures(MaskPictures(folder=masks), {"a.png": sample})
    picture(masks / "a.png", np.zeros((3, 4), np.uint8))
    with pytest.raises(UserError, match=r"the size of a\.png, 32 x 24, found .* of 4 x 3"):
        read_mask_pictures(MaskPictures(folder=masks), {"a.png": sample})
    (masks / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        read_mask_pictures(MaskPictures(folder=masks), {"a.png": sample})
    for content in ("[]", "[" * 100_000, '{"a": {"bbox": 3}}', ""):
        (tmp_path / "boxes.json").write_text(content)
        with pytest.raises(UserError, match="kavsir_bboxes"):
            read_mask_pictures(MaskPictures(folder=masks, boxes=tmp_path / "boxes.json"), {"a.png": sample})
    picture(masks / "a.png", np.zeros(SIZE, np.uint8))
    assert len(read_mask_pictures(MaskPictures(folder=masks), {"a.png": sample})["a.png"]) == 0
    for more, wanted in (("data.divide=6:2", "data.divide"), ("data.divide=0:1", "data.divide")):
        with pytest.raises(UserError, match=wanted):
            load_settings(AdaptSettings, None, [more])
    with pytest.raises(UserError, match="remove one"):
        load_settings(AdaptSettings, None, ["data.divide=6:1", f"data.test.images={tmp_path}"])
