"""`weaksam export` and `weaksam import` on files: every format through the command line, and one sentence otherwise."""

import json
from pathlib import Path

import pytest

from tests.commands import output, refused
from tests.data.label_cases import CLASSES, SIZES, labelled
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.data.formats.coco import read_instances, write_instances
from weaksam.data.formats.tags import read_tags
from weaksam.data.label_export import FORMATS


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    dataset, objects = labelled(tmp_path / "photos", masks=True)
    write_instances(tmp_path / "labels.json", dataset, objects)
    return tmp_path


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_goes_out_and_comes_in(labels: Path, name: str) -> None:
    out = labels / f"out{FORMATS[name].suffix}"
    photos = ("--images", labels / "photos")
    text = output("export", labels / "labels.json", "--format", name, "--out", out, *photos)
    assert f"{out}: 6 objects with masks on 4 photos, 1 of them without any" in text
    output("import", out, "--as", "boxes", "--out", labels / "back.json", *photos)
    first, back = read_instances(labels / "labels.json"), read_instances(labels / "back.json")
    assert set(back.images) == set(SIZES)
    ignores = bool(FORMATS[name].ignored) and name != "masks"  # borders belong to nothing
    for image_id, image in back.images.items():
        assert len(image.instances) == (0 if image_id == "empty.jpg" else 2 + ignores)
        assert len(image.instances) <= len(first.images[image_id].instances)


def test_imported_tags_and_truth_are_taken_by_a_split(labels: Path) -> None:
    output("export", labels / "labels.json", "--format", "cvat", "--out", labels / "c.xml")
    photos = ("--images", labels / "photos")
    output("import", labels / "c.xml", "--as", "tags", "--out", labels / "tags.csv", *photos)
    # What is ignored is no tag
    assert set(read_tags(labels / "tags.csv").rows["plain.png"]) == {CLASSES[0], CLASSES[2]}
    output("import", labels / "c.xml", "--as", "truth", "--out", labels / "truth.json", *photos)
    split = SplitSettings(images=labels / "photos", truth=labels / "truth.json")
    dataset = load_dataset(split, name="train")
    assert dataset.classes == CLASSES and dataset.by_id["plain.png"].truth.scores is None
    # The file itself is taken too, as any format that can be imported
    direct = load_dataset(SplitSettings(images=labels / "photos", truth=labels / "c.xml"), name="train")
    assert direct.by_id["plain.png"].truth.boxes.tolist() == dataset.by_id["plain.png"].truth.boxes.tolist()


def test_labels_of_other_photos_are_said_or_refused(labels: Path) -> None:
    content = json.loads((labels / "labels.json").read_text())
    content["images"][0]["file_name"] = "strange.jpg"
    (labels / "one.json").write_text(json.dumps(content))
    photos = ("--images", labels / "photos")
    text = output("import", labels / "one.json", "--as", "boxes", "--out", labels / "back.json", *photos)
    assert "1 of 4 images have no photo: left out" in text
    for number, image in enumerate(content["images"]):
        image["file_name"] = f"strange{number}.jpg"
    (labels / "all.json").write_text(json.dumps(content))
    sentence = refused("import", labels / "all.json", "--as", "boxes", "--out", labels / "none.json", *photos)
    assert "wanted labels of the 4 photos" in sentence and not (labels / "none.json").exists()


def test_mistakes_are_one_sentence_and_write_nothing(labels: Path) -> None:
    source, photos = labels / "labels.json", ("--images", labels / "photos")
    before = sorted(labels.iterdir())
    assert "did you mean 'coco'" in refused("export", source, "--format", "cocoo", "--out", labels / "x.json")
    assert "found none: give --out PATH" in refused("export", source, "--format", "coco")
    assert "ends in .xml" in refused("export", source, "--format", "cvat", "--out", labels / "x.json")
    assert "wanted link, copy, none as --photos" in refused(
        "export", source, "--format", "voc", "--out", labels / "x", "--photos", "links"
    )
    assert "as --as, found 'labels'" in refused("import", source, "--as", "labels", "--out", labels / "x.json", *photos)
    assert "ends in .csv for --as tags" in refused(
        "import", source, "--as", "tags", "--out", labels / "x.json", *photos
    )
    assert "found nothing there" in refused("import", labels / "no.json", "--as", "tags", "--out", labels / "x.csv")
    content = json.loads(source.read_text())
    content["annotations"][0]["bbox"] = [500, 500, 20, 20]
    (labels / "labels.json").write_text(json.dumps(content))
    assert "outside of it" in refused("import", source, "--as", "boxes", "--out", labels / "x.json", *photos)
    assert sorted(labels.iterdir()) == before
