"""What 'weaksam data check' says, fault by fault, and that it touches nothing."""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings


@pytest.fixture
def clean(tmp_path) -> Path:
    """Twelve photos, six of each class, with truth: nothing is wrong."""
    names = [f"{number:02d}.png" for number in range(12)]
    for seed, name in enumerate(names):
        write_photo(tmp_path / "photos" / name, seed)
    write(tmp_path, {name: ["apple" if i < 6 else "fig"] for i, name in enumerate(names)})
    truth = {
        "images": [{"id": i, "file_name": name, "width": 16, "height": 12} for i, name in enumerate(names)],
        "categories": [{"id": 1, "name": "apple"}, {"id": 2, "name": "fig"}],
        "annotations": [{"image_id": i, "category_id": 1 + (i >= 6), "bbox": [1, 1, 9, 9]} for i in range(12)],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path


def write(folder: Path, tags: dict[str, list[str]]) -> None:
    (folder / "tags.json").write_text(json.dumps(tags))


def change_tags(folder: Path, **changes: list[str]) -> None:
    tags = json.loads((folder / "tags.json").read_text())
    write(folder, {**tags, **{f"{name}.png": names for name, names in changes.items()}})


def change_truth(folder: Path, change) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    change(truth)
    (folder / "truth.json").write_text(json.dumps(truth))


def lines(folder: Path) -> list[str]:
    split = SplitSettings(images=folder / "photos", tags=folder / "tags.json", truth=folder / "truth.json")
    return check_data(DataSettings(train=split))


def snapshot(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_clean_set_gives_no_lines(clean) -> None:
    assert lines(clean) == []


def test_photo_faults(clean) -> None:
    photos = clean / "photos"
    (photos / "00.png").write_bytes((photos / "00.png").read_bytes()[:200])
    (photos / "02.png").write_bytes((photos / "01.png").read_bytes())
    write_photo(photos / "03.png", 3, format="JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 16), (9, 9, 9)).save(photos / "04.png", exif=exif)
    found = lines(clean)
    assert len(found) == 4
    assert found[0].startswith("train: 00.png: is truncated")
    assert found[1:] == [
        "train: 02.png: is the same file as 01.png",
        "train: 03.png: holds a JPG under the name .png, read by its content",
        "train: 04.png: is stored turned (EXIF orientation 6), read as 16 x 12",
    ]


def test_tag_faults(clean) -> None:
    write_photo(clean / "photos" / "new.png", 50)
    change_tags(clean, **{"00": ["aple"], "01": [], "gone": ["fig"]})
    assert lines(clean) == [
        "train: 00.png: has the unknown class 'aple' (did you mean 'apple'?)",
        f"train: gone.png: is named in {clean / 'tags.json'} but not in {clean / 'photos'}",
        f"train: new.png: has no row in {clean / 'tags.json'}",
        f"train: 01.png: has a row without any class in {clean / 'tags.json'}",
        "train: class 'apple': is tagged in only 4 of 12 photos",
        "train: 00.png: is tagged aple but has no such true object",
        "train: 00.png: has true objects of apple but no such tag",
        "train: 01.png: has true objects of apple but no such tag",
    ]


def test_truth_faults(clean) -> None:
    def spoil(truth: dict) -> None:
        truth["images"][2].update(width=12, height=16)
        truth["images"][3].update(width=99)
        truth["annotations"][0]["bbox"] = [10, 1, 9, 9]
        truth["annotations"][1]["bbox"] = [1, 1, 1, 9]
        truth["images"][11]["file_name"] = "other.png"

    change_truth(clean, spoil)
    assert lines(clean) == [
        "train: 00.png: has a box of 'apple' outside the photo (10, 1, 19, 10)",
        "train: 01.png: has a box of 'apple' no more than one pixel wide or high (1, 1, 2, 10)",
        "train: 02.png: is 16 x 12 but the truth says 12 x 16, its boxes may be drawn on the turned photo",
        "train: 03.png: is 16 x 12 but the truth says 99 x 12",
        f"train: 11.png: has no entry in {clean / 'truth.json'}",
    ]
    alone = check_data(DataSettings(train=SplitSettings(images=clean / "photos", truth=clean / "truth.json")))
    assert f"train: other.png: is in {clean / 'truth.json'} but not in {clean / 'photos'}" in alone


def test_tags_almost_constant_and_look_alike_classes(clean) -> None:
    for seed in range(12, 24):
        write_photo(clean / "photos" / f"{seed}.png", seed)
    tags = {f"{number:02d}.png": ["fig", "apple"] if number < 8 else ["fig"] for number in range(24)}
    tags["23.png"] = ["figs"]
    write(clean, tags)
    found = check_data(DataSettings(train=SplitSettings(images=clean / "photos", tags=clean / "tags.json")))
    assert found == [
        "train: class 'fig': is tagged in 23 of 24 photos, almost constant",
        "train: class 'figs': is tagged in only 1 of 24 photos",
        "train: class 'figs': is in 1 photos and looks like another (did you mean 'fig'?)",
    ]


def test_a_broken_file_is_one_line_and_the_rest_is_still_checked(clean) -> None:
    (clean / "tags.json").write_text("")
    change_truth(clean, lambda truth: truth["images"][3].update(width=99))
    found = lines(clean)
    assert len(found) == 2
    assert "found an empty file" in found[0]
    assert found[1] == "train: 03.png: is 16 x 12 but the truth says 99 x 12"
    (clean / "truth.json").write_text("{}")
    broken = lines(clean)
    assert len(broken) == 2
    assert any("wanted a COCO instances file" in line for line in broken)


def test_photos_that_are_in_both_splits(clean) -> None:
    write_photo(clean / "test" / "copy.png", 4)
    train = SplitSettings(images=clean / "photos", tags=clean / "tags.json")
    write(clean / "test", {"copy.png": ["apple"]})
    test = SplitSettings(images=clean / "test", tags=clean / "test" / "tags.json")
    found = check_data(DataSettings(train=train, test=test))
    assert "test: copy.png: is the same file as 04.png of train" in found
    assert check_data(DataSettings(train=train)) == []


def test_a_missing_folder_stops_and_nothing_is_changed(clean) -> None:
    with pytest.raises(UserError, match="wanted a folder of photos"):
        check_data(DataSettings(train=SplitSettings(images=clean / "nowhere", tags=clean / "tags.json")))
    (clean / "photos" / "00.png").write_bytes(b"")
    before = snapshot(clean)
    assert lines(clean)
    assert snapshot(clean) == before


def test_the_real_sets_show_their_known_quirks(shared_data) -> None:
    folder = shared_data / "bccd3"
    split = SplitSettings(tags=folder / "ImageSets/Main/trainval.txt", truth=folder / "Annotations")
    found = check_data(DataSettings(train=split))
    assert [line for line in found if "almost constant" not in line] == [
        "train: BloodImage_00338.jpg: has a box of 'RBC' no more than one pixel wide or high (503, 336, 504, 337)",
        "train: BloodImage_00343.jpg: has a box of 'RBC' no more than one pixel wide or high (180, 328, 181, 329)",
    ]
    assert [line.split("'")[1] for line in found if "almost constant" in line] == ["RBC", "WBC"]


def test_misnamed_real_photos_are_counted(shared_data) -> None:
    folder = shared_data / "fruit3"
    train = SplitSettings(images=folder / "images/train", tags=folder / "annotations/image_labels_train.json")
    test = SplitSettings(images=folder / "images/test", truth=folder / "annotations/instances_test.json")
    found = check_data(DataSettings(train=train, test=test))
    assert sum("holds a PNG under the name .jpg" in line for line in found) == 37
