"""YOLO labels as they come: names with holes, files of one name, sixth numbers, pixels, lists beside labels."""

from pathlib import Path

import pytest

from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_dataset
from weaksam.data.findings import Findings
from weaksam.data.formats import yolo
from weaksam.data.truth import read_measured_truth

SIZE = (90, 120)
BOX = ".25 .5 .5 .2"


def write_set(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def read(folder: Path, files: dict[str, str], findings: Findings | None = None):
    """The labels of one photo ``a.jpg`` in the files, which lie around and in the folder ``labels``."""
    return yolo.read_labels(write_set(folder, files) / "labels", {"a.jpg": SIZE}, None, findings)


def names_of(annotations, image_id: str = "a.jpg") -> list[str]:
    return [annotations.classes[label] for label in annotations.images[image_id].instances.labels.tolist()]


# Names


@pytest.mark.parametrize(
    ("names", "number", "wanted", "category_ids"),
    [
        ("names: {0: apple, 2: pear}", 2, "pear", (1, 3)),
        ("names: {0: apple, 2: pear, 3: plum}", 2, "pear", (1, 3, 4)),
        ("names: {'0': a, '2': c, '10': k, '1': b}", 2, "c", (1, 2, 3, 11)),
        ("names: {1: apple, 2: pear}", 1, "apple", (1, 2)),
        ("names: {apple: 0, pear: 1}", 1, "pear", (1, 2)),
        ("names: [{id: 0, name: apple}, {id: 2, name: pear}]", 2, "pear", (1, 3)),
        ("dataset:\n  names: [apple, pear]", 1, "pear", (1, 2)),
        ("names: ['1', '2']", 1, "2", (1, 2)),
    ],
)
def test_the_number_of_a_name_is_its_key(tmp_path, names, number, wanted, category_ids):
    annotations = read(tmp_path, {"data.yaml": names, "labels/a.txt": f"{number} {BOX}\n"})
    assert names_of(annotations) == [wanted] and annotations.category_ids == category_ids


@pytest.mark.parametrize(
    ("names", "number", "message"),
    [
        ("names: {0: apple, 2: pear}", 1, r"that has a name \(0, 2\) on line 1 of .*a.txt, found 1"),
        ("names: {1: apple, 2: pear}", 0, r"that has a name \(1, 2\) .* found 0"),
        ("names: [apple]", 1, "class number below 1 .* found 1"),
        ("names: [0, 1]", 0, "class name as entry 0 of 'names' in .*data.yaml, found the number 0: .*in quotes"),
        ("names: [apple, null]", 0, "entry 1 .* found null"),
        ("names: [no, yes]", 0, "the truth value False"),
        ("names: [[apple, pear]]", 0, "found the list"),
        ("names: apple", 0, "wanted 'names' in .* found the text 'apple'"),
        ("names:", 0, "found none: list the classes"),
        ("- apple\n- pear", 0, "found none: list the classes"),
        ("", 0, "found none: list the classes"),
        ("names: {0: apple, 0: pear}", 0, "key 0 is written twice"),
        ("names: {0: apple, '0': pear}", 0, "found '0', twice"),
        ("names: {-1: apple}", 0, "found -1, which is none"),
        ("names: [apple, pear, apple]", 0, "'apple' as class 0 and 2"),
        ("names: ['0.93', apple]", 0, "found '0.93'"),
        ("names: ['', apple]", 0, "as class 0 of .* found none"),
        ("names: [apple", 0, "wanted YAML with 'names'"),
    ],
)
def test_names_that_cannot_be_meant_are_one_sentence(tmp_path, names, number, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, {"data.yaml": names, "labels/a.txt": f"{number} {BOX}\n"})


def test_a_remark_among_the_names_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"found a remark in line 1, which would be a class of its own: remove it"):
        read(tmp_path, {"labels/classes.txt": "# my classes\napple\n", "labels/a.txt": f"0 {BOX}\n"})


def test_lines_of_a_text_file_count_blank_ones_too(tmp_path):
    findings = Findings()
    files = {"labels/classes.txt": "apple\n\npear\n\n", "labels/a.txt": f"2 {BOX}\n"}
    assert names_of(read(tmp_path, files, findings)) == ["pear"]
    assert findings.problems == (
        f"line 2 of {tmp_path / 'labels/classes.txt'}: a blank line was counted: that class number has no name",
    )
    numbered = {"labels/classes.txt": "0: apple\n1: pear\n", "labels/a.txt": f"1 {BOX}\n"}
    assert names_of(read(tmp_path, numbered)) == ["pear"]
    with pytest.raises(UserError, match=r"one class name a line in .* found 'apple, pear'"):
        read(tmp_path, {"labels/classes.txt": "apple, pear"})


def test_two_names_files_agree_or_are_refused_by_name(tmp_path):
    files = {"data.yaml": "names: [apple, cup, pear]", "labels/classes.txt": "apple\ncup\n"}
    findings = Findings()
    annotations = read(tmp_path, {**files, "labels/a.txt": f"2 {BOX}\n"}, findings)
    assert names_of(annotations) == ["pear"] and "more class names were taken from" in findings.problems[0]
    with pytest.raises(UserError, match=r"'pear' as class 0 in .*classes.txt and 'apple' in .*data.yaml"):
        read(tmp_path, {"labels/classes.txt": "pear\ncup\napple\n"})
    write_set(tmp_path, {"data.yaml": "path: there\n"})
    assert names_of(read(tmp_path, {"labels/a.txt": f"2 {BOX}\n"})) == ["apple"]


def test_names_that_differ_by_case_are_two_and_said(tmp_path):
    findings = Findings()
    assert read(tmp_path, {"data.yaml": "names: [a, A]", "labels/a.txt": ""}, findings).classes == ("a", "A")
    assert "the names 'a' and 'A' were read as two classes" in findings.problems[0]


# Lines


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (f"0 {BOX} 0.9\n", "taken for a confidence"),
        (f"0 {BOX} 1\n0 {BOX} 0.25\n", "taken for a confidence"),
        (f"0 {BOX} 7\n0 {BOX} 1\n", "taken for a track id and left out"),
        ("0 .1 .1 .5 .1 .5 .5\n", "taken for the three points of a polygon"),
    ],
)
def test_columns_beyond_a_box_are_said(tmp_path, lines, text):
    findings = Findings()
    annotations = read(tmp_path, {"data.yaml": "names: [apple]", "labels/a.txt": lines}, findings)
    assert len(names_of(annotations)) == lines.count("\n")
    assert text in annotations.notes[1] and text in findings.problems[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 17 20 30 40", r"in \[0, 1\], on line 1 of .*a.txt, found a coordinate of 17: divide pixels"),
        ("0 .5 .5 -.1 .2", "found a coordinate of -0.1"),
        ("0 .3 .4 .3 .4 .9 12", "found a coordinate of 12"),
        ("1.5 .5 .5 .1 .1", "found 1.5"),
        ("nan .5 .5 .1 .1", "wanted numbers on line 1"),
        ("0 nan .5 .1 .1", "wanted numbers on line 1"),
        ("0,.5,.5,.1,.1", "separate numbers by spaces"),
        ("0 0,5 0,5 0,1 0,1", "write decimal points"),
        (f"0 {BOX} 7\n0 {BOX} .8", "found 7 and, on line 2"),
    ],
)
def test_lines_that_cannot_be_meant_are_one_sentence(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, {"data.yaml": "names: [apple, pear]", "labels/a.txt": line})


def test_whole_class_numbers_rounded_edges_and_empty_files_are_read(tmp_path):
    annotations = read(tmp_path, {"data.yaml": "names: [a, b]", "labels/a.txt": "1.0 .5 1.0000001 .1 .1\r\n\r\n"})
    assert names_of(annotations) == ["b"]
    assert names_of(read(tmp_path, {"labels/a.txt": "\n"})) == []


# Files


def test_a_photo_may_bear_the_name_of_a_list(tmp_path):
    labels = {f"{name}.txt": f"0 {BOX}\n" for name in ("test", "train", "garden")}
    write_set(tmp_path, {**labels, "classes.txt": "apple\n", "valid.txt": "data/a.jpg\n", "._garden.txt": "x"})
    findings = Findings()
    annotations = yolo.read_labels(tmp_path, {f"{n}.jpg": SIZE for n in ("test", "train", "garden")}, None, findings)
    assert [len(image.instances) for image in annotations.images.values()] == [1, 1, 1]
    assert findings.counts == [f"YOLO labels in {tmp_path}: 3 files, 3 objects; no labels: classes.txt, valid.txt"]


def test_files_and_photos_without_the_other_are_counted(tmp_path):
    files = {"classes.txt": "apple\n", "a.TXT": f"0 {BOX}\n", "b.txt": f"0 {BOX}\n"}
    findings = Findings()
    annotations = yolo.read_labels(write_set(tmp_path, files), {"a.jpg": SIZE, "c.jpg": SIZE}, None, findings)
    assert names_of(annotations) == ["apple"] and names_of(annotations, "c.jpg") == []
    assert findings.counts == [
        f"YOLO labels in {tmp_path}: 2 files, 1 objects; 1 photos have no file and so no objects; "
        "1 files have no photo (b); no labels: classes.txt"
    ]
    with pytest.raises(UserError, match=r"labels of the 1 photos in .* found 2 files for others \(a, b\)"):
        yolo.read_labels(tmp_path, {"c.jpg": SIZE})


@pytest.fixture
def two_folders(tmp_path) -> Path:
    """Photos of one name in three splits; the labels of train say pear, the others apple."""
    for split in ("train", "val", "test"):
        write_photo(tmp_path / f"images/{split}/0001.jpg", size=SIZE)
    numbers = {"train": 1, "val": 0, "test": 0}
    labels = {f"labels/{split}/0001.txt": f"{number} {BOX}\n" for split, number in numbers.items()}
    return write_set(tmp_path, {**labels, "data.yaml": "names: [apple, pear]"})


@pytest.mark.parametrize(("split", "wanted"), [("train", "pear"), ("val", "apple"), ("test", "apple")])
def test_of_files_of_one_name_the_photos_folder_tells(two_folders, split, wanted):
    images, labels = two_folders / "images" / split, two_folders / "labels"
    annotations, counted, notes = read_measured_truth(labels, images)
    assert names_of(annotations, "0001.jpg") == [wanted] and counted == ("0001.jpg",)
    assert "left out 2 of photos of the same name elsewhere" in "; ".join(notes)
    dataset = load_dataset(SplitSettings(images=images, truth=labels), name="test")
    assert [dataset.classes[label] for label in dataset.samples[0].tags] == [wanted]
    assert any("left out 2" in note for note in dataset.notes) and dataset.bad == ()


def test_files_of_one_name_that_nothing_tells_apart_are_refused(two_folders):
    (two_folders / "images/val").rename(two_folders / "photos")
    settings = SplitSettings(images=two_folders / "photos", truth=two_folders / "labels")
    message = "found 0001.jpg twice, as 'test/0001' and 'train/0001'"
    with pytest.raises(UserError, match=message):
        load_dataset(settings, name="test")
    with pytest.raises(UserError, match=message):
        read_measured_truth(settings.truth, settings.images)
    assert any(message in line for line in check_data(DataSettings(train=settings)))
    # Those of another split are not those of these photos
    for split in ("val", "test"):
        (two_folders / f"labels/{split}/0001.txt").unlink()
    with pytest.raises(UserError, match=r"found 1 files for others \(train/0001\)"):
        read_measured_truth(two_folders / "labels", two_folders / "images/test")


def test_labels_and_photos_in_folders_inside_the_splits(tmp_path):
    labels = {"train/labels/0001.txt": f"1 {BOX}\n", "valid/labels/0001.txt": f"0 {BOX}\n"}
    write_set(tmp_path, {**labels, "data.yaml": "names: [apple, pear]"})
    valid = yolo.read_labels(tmp_path, {"0001.jpg": SIZE}, images=tmp_path / "valid/images")
    assert names_of(valid, "0001.jpg") == ["apple"]
    both = yolo.read_labels(tmp_path, {f"{split}/images/0001.jpg": SIZE for split in ("train", "valid")})
    assert names_of(both, "train/images/0001.jpg") == ["pear"]
    assert names_of(both, "valid/images/0001.jpg") == ["apple"]


def test_data_check_lists_every_faulty_line(tmp_path):
    write_photo(tmp_path / "photos/a.jpg", size=SIZE)
    files = {"classes.txt": "apple\n", "a.txt": f"0 {BOX}\n3 {BOX}\n0 17 20 30 40\n"}
    split = SplitSettings(images=tmp_path / "photos", truth=write_set(tmp_path / "labels", files))
    counts: list[str] = []
    lines = check_data(DataSettings(train=split), counts)
    assert [line for line in lines if "line 2 of" in line and "found 3" in line]
    assert [line for line in lines if "line 3 of" in line and "coordinate of 17" in line]
    assert counts == [f"train: YOLO labels in {split.truth}: 1 files, 1 objects; no labels: classes.txt"]
    with pytest.raises(UserError, match="line 2 of"):
        load_dataset(split, name="train")
