"""The same files read by 'data check', by a run and by an evaluation: they agree, and each says what it left out."""

import json
import unicodedata
from pathlib import Path

import pytest

from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_dataset, load_splits
from weaksam.evaluation.files import evaluate_files

NFC, NFD = (unicodedata.normalize(form, "crème") for form in ("NFC", "NFD"))
XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    "</object></annotation>"
)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six photos of 16 x 12, ``0.png`` to ``5.png``."""
    for number in range(6):
        write_photo(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


def coco_truth(path: Path, classes: list[str], labels: list[int]) -> Path:
    """A COCO file of one object a photo, of the class at ``labels``."""
    content = {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "width": 16, "height": 12} for i in range(len(labels))],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
        "annotations": [
            {"id": i + 1, "image_id": i + 1, "category_id": label + 1, "bbox": [1, 1, 8, 8]}
            for i, label in enumerate(labels)
        ],
    }
    path.write_text(json.dumps(content))
    return path


def results(path: Path, category_id: int | str = 1) -> Path:
    path.write_text(json.dumps([{"image_id": 1, "category_id": category_id, "bbox": [1, 1, 8, 8], "score": 0.5}]))
    return path


def check(split: SplitSettings, **more: SplitSettings) -> tuple[list[str], list[str]]:
    """The lines and the counts of 'data check'."""
    counts: list[str] = []
    lines = check_data(DataSettings(train=split, **more), counts)
    return list(lines), counts


def test_class_names_in_another_unicode_form_are_one_class(photos, tmp_path):
    truth = coco_truth(tmp_path / "t.json", [NFD, "fig"], [0, 0, 0, 1, 1, 1])
    tags = tmp_path / "tags.csv"
    tags.write_text("".join(f"{i}.png,{NFC if i < 3 else 'fig'}\n" for i in range(6)), encoding="utf-8")
    split = SplitSettings(images=photos, tags=tags, truth=truth)
    assert [sample.tags for sample in load_dataset(split, name="train")] == [(0,)] * 3 + [(1,)] * 3
    assert not [line for line in check(split)[0] if "unknown" in line or "no such" in line]
    figures = evaluate_files(truth, results(tmp_path / "r.json", NFC), ["voc", "corloc"], tags=tags)
    assert figures["voc"]["num_detections"] == [1, 0]
    assert figures["corloc"]["num_images"] == [3, 3]
    given = load_dataset(split, name="train", classes=(NFC, "fig"))
    assert [len(objects) for objects in given.truths.values()] == [1] * 6 and given.category_ids == (1, 2)


def test_an_evaluation_says_how_the_tags_were_read(photos, tmp_path):
    truth = coco_truth(tmp_path / "t.json", ["cat", "dog"], [0, 1])
    tags = tmp_path / "tags.csv"
    tags.write_text("id,filename,label\n7,0.png,cat\n8,other.png,dog\n")
    protocol = evaluate_files(truth, results(tmp_path / "r.json"), ["corloc"], tags=tags)["corloc"]["protocol"]
    assert "file = 'filename', tags = 'label'; not used: 'id'" in protocol
    assert f"{tags}: left out 1 rows of other images and 1 of 2 images without a row" in protocol


def test_labels_without_names_count_the_classes_of_the_tags_in_both(photos, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for number in range(6):
        (labels / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.5 0.5\n")
    tags = tmp_path / "tags.csv"
    tags.write_text("file,cat,ape\n" + "".join(f"{i}.png,{1 - i % 2},{i % 2}\n" for i in range(6)))
    split = SplitSettings(images=photos, tags=tags, truth=labels)
    said = "no names file, class numbers count the classes given: 0 is cat, ape"
    dataset = load_dataset(split, name="train")
    lines, counts = check(split)
    assert any(said in note for note in dataset.notes) and any(said in count for count in counts)
    assert not [line for line in lines if "class names" in line or "no such" in line]
    assert [sample.truth.labels.tolist() == list(sample.tags) for sample in dataset] == [True] * 6
    plain = tmp_path / "plain.csv"
    plain.write_text("".join(f"{i}.png,{('cat', 'ape')[i % 2]}\n" for i in range(6)))
    split = SplitSettings(images=photos, tags=plain, truth=labels)
    with pytest.raises(UserError, match="wanted class names for the YOLO labels"):
        load_dataset(split, name="train")
    assert any("wanted class names for the YOLO labels" in line for line in check(split)[0])


def test_photos_without_an_entry_are_counted_in_all(photos, tmp_path):
    truth = tmp_path / "xml"
    truth.mkdir()
    for number in range(4):
        (truth / f"{number}.xml").write_text(XML.format("cat" if number else "dog"))
    said = f"{truth}: 2 of 6 photos have no entry there and so no truth"
    assert said in load_dataset(SplitSettings(images=photos, truth=truth), name="test").notes
    (tmp_path / "comp4_det_test_cat.txt").write_text("1 0.5 1 1 9 9\n")
    protocol = evaluate_files(truth, tmp_path / "comp4_det_test_cat.txt", ["voc"], images=photos)["voc"]["protocol"]
    assert said in protocol
    lines, _ = check(SplitSettings(images=photos, truth=truth))
    assert [line for line in lines if "has no entry" in line] == [
        f"train: {number}.png: has no entry in {truth}" for number in (4, 5)
    ]


def test_objects_of_other_classes_are_counted(photos, tmp_path):
    train = SplitSettings(images=photos, truth=coco_truth(tmp_path / "a.json", ["cat", "dog"], [0, 1, 0, 1, 0, 1]))
    test = SplitSettings(images=photos, truth=coco_truth(tmp_path / "b.json", ["cat", "dog", "emu"], [0, 2, 2]))
    _, dataset = load_splits(DataSettings(train=train, test=test))
    assert f"{tmp_path / 'b.json'}: left out 2 objects of other classes (emu)" in dataset.notes


def test_classes_of_the_training_tags_hold_for_the_test_tags(photos, tmp_path):
    (tmp_path / "a.csv").write_text("".join(f"{i}.png,{('cat', 'dog')[i % 2]}\n" for i in range(6)))
    (tmp_path / "b.csv").write_text("0.png,emu\n")
    train, test = (SplitSettings(images=photos, tags=tmp_path / name) for name in ("a.csv", "b.csv"))
    with pytest.raises(UserError, match="found 'emu'"):
        load_splits(DataSettings(train=train, test=test))
    assert any("test: 0.png: has the unknown class 'emu'" in line for line in check(train, test=test)[0])


def test_names_of_tags_are_matched_as_those_of_truth(tmp_path):
    write_photo(tmp_path / "photos" / "train" / "a.png", 1)
    write_photo(tmp_path / "photos" / "val" / "a.png", 2)
    rows = {"train/images/a.png": ["cat"], "val/images/a.png": ["dog"]}
    (tmp_path / "tags.json").write_text(json.dumps(rows))
    dataset = load_dataset(SplitSettings(images=tmp_path / "photos", tags=tmp_path / "tags.json"), name="train")
    assert {sample.image_id: dataset.classes[sample.tags[0]] for sample in dataset} == {
        "train/a.png": "cat",
        "val/a.png": "dog",
    }


def test_tags_from_a_coco_file_list_all_their_faults(photos, tmp_path):
    path = coco_truth(tmp_path / "t.json", ["cat", "dog"], [0, 1, 0])
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = None
    content["annotations"][1]["category_id"] = 9
    path.write_text(json.dumps(content))
    split = SplitSettings(images=photos, tags=path)
    lines, _ = check(split)
    assert any("annotation 1 (id 1)" in line for line in lines) and any("annotation 2 (id 2)" in line for line in lines)
    with pytest.raises(UserError, match=r"annotation 1 \(id 1\)"):
        load_dataset(split, name="train")


def test_one_class_on_every_photo_is_said_as_a_run_refuses_it(photos, tmp_path):
    (tmp_path / "a.csv").write_text("".join(f"{i}.png,cat\n" for i in range(6)))
    lines, _ = check(SplitSettings(images=photos, tags=tmp_path / "a.csv"))
    assert lines == ["train: class 'cat': is tagged in 6 of 6 photos, almost constant"]
