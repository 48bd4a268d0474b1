"""Loading whole splits: matching names, classes, numbers, what is set aside and what is refused."""

import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import write_photo
from weaksam.config import UserError, did_you_mean
from weaksam.data.dataset import DataSettings, SplitSettings, gives_tags, load_dataset, load_splits
from weaksam.data.image_names import ImageNames


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three photos of 16 x 12 pixels, their tags, and their truth with other ids."""
    for seed, name in enumerate(["b.jpg", "a.jpg", "c.png"]):
        write_photo(tmp_path / "photos" / name, seed)
    (tmp_path / "tags.csv").write_text("a.jpg,apple;fig\nb.jpg,fig\nc.png,apple\n")
    images = [
        {"id": 40 - i, "file_name": n, "width": 16, "height": 12} for i, n in enumerate(["a.jpg", "b.jpg", "c.png"])
    ]
    truth = {
        "images": images,
        "categories": [{"id": 3, "name": "fig"}, {"id": 8, "name": "apple"}],
        "annotations": [
            {"image_id": 40, "category_id": 8, "bbox": [1, 2, 3, 4]},
            {"image_id": 40, "category_id": 3, "bbox": [0, 0, 5, 5]},
            {"image_id": 38, "category_id": 8, "bbox": [0, 0, 16, 12]},
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path


def split(folder: Path, **changes) -> SplitSettings:
    return SplitSettings(**{"images": folder / "photos", "tags": folder / "tags.csv", **changes})


def test_tags_alone(folder) -> None:
    dataset = load_dataset(split(folder), name="train")
    assert dataset.image_ids == ("a.jpg", "b.jpg", "c.png")
    assert (dataset.classes, dataset.category_ids) == (("apple", "fig"), (1, 2))
    assert [sample.tags for sample in dataset] == [(0, 1), (1,), (0,)]
    assert [sample.number for sample in dataset] == [1, 2, 3]
    assert {sample.size for sample in dataset} == {(12, 16)}
    assert all(sample.truth is None for sample in dataset)
    assert dataset.bad == ()
    assert dataset.by_id["c.png"].path == folder / "photos" / "c.png"
    assert dataset.truths == {}


def test_truth_gives_ids_numbers_and_classes_in_its_order(folder) -> None:
    dataset = load_dataset(split(folder, truth=folder / "truth.json"), name="train")
    assert (dataset.classes, dataset.category_ids) == (("fig", "apple"), (3, 8))
    assert [sample.tags for sample in dataset] == [(0, 1), (0,), (1,)]
    assert [sample.number for sample in dataset] == [40, 39, 38]
    assert dataset.samples[0].truth.labels.tolist() == [1, 0]
    assert dataset.samples[0].truth.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 5, 5]]
    assert len(dataset.samples[1].truth) == 0


def test_truth_alone_gives_the_tags(folder) -> None:
    dataset = load_dataset(split(folder, tags=None, truth=folder / "truth.json"), name="test")
    assert [sample.tags for sample in dataset] == [(0, 1), (), (1,)]


def test_given_classes_decide_labels_and_keep_the_files_ids(folder) -> None:
    data = load_dataset(split(folder, truth=folder / "truth.json"), name="t", classes=("pear", "apple", "fig"))
    assert (data.classes, data.category_ids) == (("pear", "apple", "fig"), (1, 8, 3))
    assert data.samples[0].truth.labels.tolist() == [1, 2]
    assert data.samples[0].tags == (1, 2)


def test_objects_of_classes_nobody_asked_for_are_left_out(folder) -> None:
    data = load_dataset(split(folder, tags=None, truth=folder / "truth.json"), name="t", classes=("apple",))
    assert [sample.truth.boxes.tolist() for sample in data] == [[[1, 2, 4, 6]], [], [[0, 0, 16, 12]]]
    assert [sample.tags for sample in data] == [(0,), (), (0,)]
    assert data.category_ids == (8,)


def test_the_fingerprint_knows_photos_tags_and_classes_but_not_the_truth(folder) -> None:
    def fingerprint(**changes) -> str:
        return load_dataset(split(folder, **changes), name="train", classes=("apple", "fig")).fingerprint

    before = fingerprint()
    assert before == fingerprint()
    assert before == fingerprint(truth=folder / "truth.json")
    assert before != load_dataset(split(folder), name="train", classes=("fig", "apple")).fingerprint
    (folder / "tags.csv").write_text("a.jpg,apple\nb.jpg,fig\nc.png,apple\n")
    after = fingerprint()
    assert after != before
    write_photo(folder / "photos" / "a.jpg", 99)
    assert fingerprint() != after


def test_photos_in_folders_and_names_without_them(tmp_path) -> None:
    for seed, name in enumerate(["x/1.jpg", "y/1.jpg", "y/2.JPG"]):
        write_photo(tmp_path / "photos" / name, seed)
    (tmp_path / "tags.csv").write_text("x/1,apple\ndata/photos/y/1.jpg,fig\n2.jpg,fig\n")
    dataset = load_dataset(split(tmp_path), name="train")
    assert {sample.image_id: sample.tags for sample in dataset} == {"x/1.jpg": (0,), "y/1.jpg": (1,), "y/2.JPG": (1,)}
    (tmp_path / "tags.csv").write_text("1.jpg,apple\n")
    with pytest.raises(UserError, match=r"found x/1.jpg, y/1.jpg: write the folder"):
        load_dataset(split(tmp_path), name="train")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        (" a ", "a.jpg"),
        ("A.JPG", "a.jpg"),
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("sub/b.png", "sub/b.png"),
        ("b", "sub/b.png"),
        ("deep/sub/b", "sub/b.png"),
        ("other/b.png", None),
        ("b.jpg", None),
        ("IMG_jpg.rf.0a1", "IMG_jpg.rf.0a1.jpg"),
        ("IMG_jpg", None),
        ("same.jpg", "same.jpg"),
        ("same.png", "same.png"),
        ("nowhere", None),
    ],
)
def test_which_photo_a_name_means(name, found) -> None:
    names = ImageNames(["a.jpg", "sub/b.png", "IMG_jpg.rf.0a1.jpg", "same.jpg", "same.png"])
    assert names.find_name(name, "tags.csv") == found


def test_the_literal_name_wins_over_a_similar_one() -> None:
    assert ImageNames(["a.jpg", "A.JPG"]).find_name("photos/a.jpg", "tags.csv") == "a.jpg"
    assert ImageNames(["a.jpg.png", "x/a.jpg"]).find_name("a.jpg", "tags.csv") == "x/a.jpg"
    assert ImageNames(["clip.gif"]).find_name("clip", "tags.csv") == "clip.gif"
    with pytest.raises(UserError, match="wanted one photo for 'same'"):
        ImageNames(["same.jpg", "same.png"]).find_name("same", "tags.csv")


def test_names_in_another_unicode_form_and_addresses() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Äpfel_Küche.jpg") for form in ("NFC", "NFD"))
    assert ImageNames([decomposed]).find_name(composed, "tags.csv") == decomposed
    assert ImageNames([f"für/{composed}"]).find_name(unicodedata.normalize("NFD", f"für/{composed}"), "t") is not None
    assert ImageNames([composed, decomposed]).find_name(decomposed, "tags.csv") == decomposed
    with pytest.raises(UserError, match="wanted one photo"):
        ImageNames([composed, decomposed]).find_name(composed.removesuffix(".jpg"), "tags.csv")
    names = ImageNames(["a b.jpg", "sub/c.jpg", "a?b#1.jpg", "q\\x.jpg"])
    assert names.find_name("https://host/photos/a%20b.jpg?size=2#top", "tags.csv") == "a b.jpg"
    assert names.find_name("gs://bucket/sub/c.jpg", "tags.csv") == "sub/c.jpg"
    assert names.find_name("https://[host/c.jpg", "tags.csv") is None
    assert names.find_name("a?b#1.jpg", "tags.csv") == "a?b#1.jpg"
    assert names.find_name("q\\x.jpg", "tags.csv") == "q\\x.jpg"


def test_a_near_name_is_suggested_and_a_far_one_is_not() -> None:
    assert did_you_mean("aple", ["banana", "apple"]) == " (did you mean 'apple'?)"
    assert did_you_mean("Apple", ["banana", "apple"]) == " (did you mean 'apple'?)"
    assert did_you_mean("car", ["banana", "apple"]) == ""


def test_bad_photos_are_set_aside_with_their_reason_and_the_rest_is_loaded(folder) -> None:
    photos = folder / "photos"
    (photos / "a.jpg").write_bytes((photos / "a.jpg").read_bytes()[:-150])
    (photos / "page.jpg").write_text("<html>404</html>")
    Image.new("RGB", (4, 4)).save(photos / "anim.gif")
    write_photo(photos / "new.jpg", 7)
    with (folder / "tags.csv").open("a") as stream:
        stream.write("page.jpg,fig\ngone.jpg,fig\nanim.gif,fig\n")
    dataset = load_dataset(split(folder), name="train")
    assert dataset.image_ids == ("b.jpg", "c.png")
    reasons = dict(dataset.bad)
    assert sorted(reasons) == ["a.jpg", "anim.gif", "gone.jpg", "new.jpg", "page.jpg"]
    assert "truncated" in reasons["a.jpg"]
    assert reasons["anim.gif"] == "is a GIF file"
    assert reasons["gone.jpg"] == f"is named in {folder / 'tags.csv'} but not in {photos}"
    assert reasons["new.jpg"] == f"has no row in {folder / 'tags.csv'}"
    assert reasons["page.jpg"] == "is a web page or XML file"
    assert [sample.number for sample in dataset] == [1, 2]


def test_numbers_stay_unique_where_the_truth_lacks_a_photo(folder) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    truth["images"] = [image for image in truth["images"] if image["file_name"] != "b.jpg"]
    (folder / "truth.json").write_text(json.dumps(truth))
    dataset = load_dataset(split(folder, truth=folder / "truth.json"), name="train")
    assert [sample.number for sample in dataset] == [40, 41, 38]
    assert dataset.by_id["b.jpg"].truth is None
    alone = load_dataset(split(folder, tags=None, truth=folder / "truth.json"), name="test")
    assert alone.image_ids == ("a.jpg", "c.png")
    assert dict(alone.bad)["b.jpg"] == f"has no row in {folder / 'truth.json'}"


def test_what_was_set_aside_is_logged(folder) -> None:
    events, kept = [], {}

    class Log:
        def write(self, event: str, **fields) -> None:
            events.append((event, fields))

        def keep_names(self, file: str, names) -> None:
            kept[file] = dict(names)

    (folder / "photos" / "a.jpg").write_bytes(b"")
    load_dataset(split(folder), name="train", log=Log())
    assert events[0] == ("dataset", {"name": "train", "photos": 2, "classes": ["apple", "fig"], "bad": 1})
    assert events[1][0] == "set_aside"
    assert events[1][1]["image_id"] == "a.jpg"
    assert "empty" in events[1][1]["reason"]
    assert kept == {"set_aside_train.json": {events[1][1]["reason"]: ("a.jpg",)}}


def test_class_folders_need_no_tag_file(tmp_path) -> None:
    for seed, name in enumerate(["pear/1.jpg", "apple/1.jpg", "apple/2.jpg"]):
        write_photo(tmp_path / name, seed)
    for settings in (SplitSettings(images=tmp_path), SplitSettings(tags=tmp_path)):
        dataset = load_dataset(settings, name="train")
        assert dataset.image_ids == ("apple/1.jpg", "apple/2.jpg", "pear/1.jpg")
        assert [sample.tags for sample in dataset] == [(0,), (0,), (1,)]


def test_a_voc_folder_by_its_list_alone(shared_data) -> None:
    folder = shared_data / "bccd3"
    dataset = load_dataset(
        SplitSettings(tags=folder / "ImageSets/Main/val.txt", truth=folder / "Annotations"), name="val"
    )
    assert len(dataset) == len((folder / "ImageSets/Main/val.txt").read_text().split())
    assert dataset.bad == ()
    assert dataset.samples[0].image_id == "BloodImage_00000.jpg"
    assert dataset.samples[0].size == (480, 640)


def test_the_real_fruit_photos_with_all_their_quirks(shared_data) -> None:
    folder = shared_data / "fruit3"
    data = DataSettings(
        train=SplitSettings(images=folder / "images/train", tags=folder / "annotations/image_labels_train.json"),
        test=SplitSettings(images=folder / "images/test", truth=folder / "annotations/instances_test.json"),
    )
    train, test = load_splits(data)
    assert (len(train), len(test)) == (240, 60)
    assert train.classes == test.classes == ("apple", "banana", "orange")
    assert train.bad == test.bad == ()
    truth = json.loads((folder / "annotations/instances_train.json").read_text())
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in truth["images"]}
    assert {sample.image_id: sample.size for sample in train} == sizes
    assert sum(len(sample.truth) for sample in test) == len(
        json.loads((folder / "annotations/instances_test.json").read_text())["annotations"]
    )


@pytest.mark.parametrize("row", ["a.jpg,aple", "a.jpg,apple;Fgi"])
def test_an_unknown_class_names_its_row_and_the_nearest(folder, row) -> None:
    (folder / "tags.csv").write_text(f"{row}\nb.jpg,fig\nc.png,apple\n")
    with pytest.raises(UserError, match=r"for a\.jpg in .*tags\.csv, found '(aple|Fgi)' \(did you mean '(apple|fig)'"):
        load_dataset(split(folder), name="train", classes=("apple", "fig"))


def test_a_misspelt_class_is_found_by_the_truth_of_the_test_split(folder) -> None:
    (folder / "tags.csv").write_text("a.jpg,aple\nb.jpg,fig\nc.png,apple\n")
    test = SplitSettings(images=folder / "photos", truth=folder / "truth.json")
    with pytest.raises(UserError, match=r"found 'aple' \(did you mean 'apple'"):
        load_splits(DataSettings(train=split(folder), test=test))


def test_truth_that_spells_the_classes_differently_is_refused(folder) -> None:
    with pytest.raises(UserError, match=r"found apple, fig but no 'Apple' \(did you mean 'apple'\?\)"):
        load_dataset(split(folder, tags=None, truth=folder / "truth.json"), name="test", classes=("Apple", "Fig"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "nowhere"}, "wanted a folder of photos at .*nowhere, found nothing there"),
        ({"images": "tags.csv"}, "wanted a folder of photos at .*tags.csv, found a file"),
        ({"images": "empty"}, "wanted photos .* in .*empty, found none"),
        ({"images": None}, "wanted a folder of photos at .*tags.csv, found a file"),
        (
            {"images": None, "tags": None},
            "wanted a folder of photos for the train split, found none: set data.train.images",
        ),
        ({"tags": None}, "wanted tags for the photos in .*: set data.train.tags"),
        ({"tags": "nowhere.csv"}, "wanted image tags at .*nowhere.csv, found nothing there"),
        ({"tags": "empty.csv"}, "without any row"),
        ({"tags": "strangers.csv"}, r"found none of its 2 \(x\.jpg, y\.jpg\)"),
        ({"tags": "untagged.csv"}, "wanted at least one class"),
        ({"truth": "nowhere.json"}, "wanted true boxes .* found nothing there"),
        ({"truth": "tags.csv"}, "wanted a table of boxes with the columns .* found no file, label"),
        ({"truth": "tags.txt"}, "wanted true boxes as .json .* found the file"),
        ({"truth": "empty"}, "found neither VOC .*xml nor YOLO"),
    ],
)
def test_every_mistake_is_one_sentence(folder, changes, message) -> None:
    (folder / "empty").mkdir()
    (folder / "empty.csv").write_text("")
    (folder / "strangers.csv").write_text("x.jpg,fig\ny.jpg,fig\n")
    (folder / "untagged.csv").write_text("file,tags\na.jpg,\nb.jpg,\n")
    (folder / "tags.txt").write_text("a.jpg,fig\n")
    paths = {key: value and folder / value for key, value in changes.items()}
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(split(folder, **paths), name="train")
    assert "\n" not in str(caught.value)


def test_only_bad_photos_is_an_error_that_shows_one(folder) -> None:
    for path in (folder / "photos").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"found 3 and none usable \(a\.jpg is empty"):
        load_dataset(split(folder), name="train")


def test_a_photo_listed_twice_in_the_truth_is_refused(folder) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    truth["images"].append({"id": 77, "file_name": "photos/a.jpg", "width": 16, "height": 12})
    (folder / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"found a\.jpg twice"):
        load_dataset(split(folder, truth=folder / "truth.json"), name="train")


def test_what_gives_tags(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.jpg").touch()
    (tmp_path / "folders" / "cat").mkdir(parents=True)
    (tmp_path / "folders" / "cat" / "a.jpg").touch()
    assert gives_tags(SplitSettings(images=tmp_path / "folders"))
    assert not gives_tags(SplitSettings(images=tmp_path / "flat"))
    assert not gives_tags(SplitSettings(images=tmp_path / "missing"))
    assert gives_tags(SplitSettings(images=tmp_path / "flat", tags=tmp_path / "tags.csv"))
    assert gives_tags(SplitSettings(images=tmp_path / "flat", truth=tmp_path / "truth.json"))
