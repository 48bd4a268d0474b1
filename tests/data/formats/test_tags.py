"""Image tags in every layout, there and back, and refused when broken."""

import json

import pytest

from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data.formats import tags as T
from weaksam.data.formats import voc_lists

WANTED = {"a.jpg": ("apple", "fig"), "b.jpg": ("fig",), "c.jpg": ()}

CSV_LAYOUTS = {
    "joined": "file,tags\na.jpg,apple;fig\nb.jpg,fig\nc.jpg,\n",
    "joined without header": "a.jpg,apple;fig\nb.jpg,fig\nc.jpg,\n",
    "bars, spaces, byte order mark": "\ufefffilename, labels\r\na.jpg, apple | fig\r\nb.jpg, fig\r\nc.jpg,\r\n",
    "quoted commas": 'image,class\na.jpg,"apple, fig"\nb.jpg,fig\nc.jpg,""\n',
    "columns": "file,tag1,tag2\na.jpg,apple,fig\nb.jpg,fig,\nc.jpg,,\n",
    "columns without header": "a.jpg,apple,fig\nb.jpg,fig,\nc.jpg,,\n",
    "repeated rows": "a.jpg,apple\na.jpg,fig\nb.jpg,fig\nc.jpg,\n",
    "one column per class": "image_id,apple,fig\na.jpg,1,1\nb.jpg,0,1\nc.jpg,0,0\n",
    "one column per class, -1 and blanks": "photo name,apple,fig\na.jpg,1,1\nb.jpg,-1,1\nc.jpg,,-1\n",
    "semicolons": "file;tags\na.jpg;apple|fig\nb.jpg;fig\nc.jpg;\n",
    "tabs": "file\ttags\na.jpg\tapple;fig\nb.jpg\tfig\nc.jpg\t\n",
    "other columns": "file,width,label,split\na.jpg,640,apple;fig,1\nb.jpg,640,fig,1\nc.jpg,640,,0\n",
    "blank lines": "\nfile,tags\n\na.jpg,apple;fig\n\nb.jpg,fig\nc.jpg,\n\n",
    "unknown header": "bild,sorten\na.jpg,apple;fig\nb.jpg,fig\nc.jpg,\n",
}


@pytest.mark.parametrize("layout", CSV_LAYOUTS)
def test_every_csv_layout(tmp_path, layout) -> None:
    (tmp_path / "tags.csv").write_text(CSV_LAYOUTS[layout], encoding="utf-8")
    read = T.read_tags(tmp_path / "tags.csv")
    assert read.rows == WANTED
    assert read.class_names == ("apple", "fig")
    assert read.complete


def test_names_without_ending_and_numbers_as_classes(tmp_path) -> None:
    path = tmp_path / "tags.csv"
    path.write_text("0001,apple\n0002,fig\n")
    assert T.read_tags(path).rows == {"0001": ("apple",), "0002": ("fig",)}
    path.write_text("file,label\n0001,1\n0002,0\n")
    assert T.read_tags(path).rows == {"0001": ("1",), "0002": ("0",)}


@pytest.mark.parametrize("first", ["banana,fig", "IMG 1,pear", "x/1,pear"])
def test_a_first_photo_without_its_ending_is_not_taken_for_a_header(tmp_path, first) -> None:
    (tmp_path / "tags.csv").write_text(f"{first}\na.jpg,fig\nb.jpg,apple\n")
    assert len(T.read_tags(tmp_path / "tags.csv").rows) == 3


def test_one_hot_columns_keep_their_order_and_classes_nobody_has(tmp_path) -> None:
    (tmp_path / "tags.csv").write_text("file,pear,apple\na.jpg,0,1\nb.jpg,0,1\n")
    assert T.read_tags(tmp_path / "tags.csv").class_names == ("pear", "apple")


JSON_LAYOUTS = {
    "lists": {"a.jpg": ["apple", "fig"], "b.jpg": ["fig"], "c.jpg": []},
    "texts": {"a.jpg": "apple;fig", "b.jpg": "fig", "c.jpg": ""},
    "flags": {"a.jpg": {"apple": 1, "fig": True}, "b.jpg": {"apple": 0, "fig": 1}, "c.jpg": {"apple": False}},
    "entries": [
        {"file_name": "a.jpg", "tags": ["apple", "fig"]},
        {"image": "b.jpg", "label": "fig"},
        {"file": "c.jpg", "classes": []},
    ],
}


@pytest.mark.parametrize("layout", JSON_LAYOUTS)
def test_every_json_layout(tmp_path, layout) -> None:
    (tmp_path / "tags.json").write_text(json.dumps(JSON_LAYOUTS[layout]))
    assert T.read_tags(tmp_path / "tags.json").rows == WANTED


@pytest.mark.parametrize("layout", JSON_LAYOUTS)
def test_the_same_line_by_line(tmp_path, layout) -> None:
    content = JSON_LAYOUTS[layout]
    entries = content if isinstance(content, list) else [{name: value} for name, value in content.items()]
    (tmp_path / "tags.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries) + "\n\n")
    assert T.read_tags(tmp_path / "tags.jsonl").rows == WANTED


def test_a_coco_file_gives_its_categories_and_nothing_more(tmp_path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 4, "name": "fig"}, {"id": 9, "name": "apple"}],
        "annotations": [{"image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]}] * 2,
    }
    (tmp_path / "tags.json").write_text(json.dumps(content))
    read = T.read_tags(tmp_path / "tags.json")
    assert read.rows == {"a.jpg": ("apple",), "b.jpg": ()}
    assert read.class_names == ("fig", "apple")


@pytest.mark.parametrize(
    ("write", "name"), [(T.write_csv, "t.csv"), (T.write_json, "t.json"), (T.write_jsonl, "t.jsonl")]
)
def test_every_format_there_and_back(tmp_path, write, name) -> None:
    tags = {"a b/ä,1.jpg": ("apple", "fig tree"), "b.jpg": (), "c;d.jpg": ("fig tree",)}
    write(tmp_path / name, tags)
    assert T.read_tags(tmp_path / name).rows == tags


def test_one_folder_per_class(tmp_path) -> None:
    for name in ("pear/1.jpg", "apple/1.jpg", "apple/deep/2.png", ".hidden/3.jpg"):
        write_photo(tmp_path / name)
    (tmp_path / "apple" / "notes.txt").write_text("no photo")
    read = T.read_tags(tmp_path)
    assert read.rows == {"apple/1.jpg": ("apple",), "apple/deep/2.png": ("apple",), "pear/1.jpg": ("pear",)}
    assert read.class_names == ("apple", "pear")
    assert T.is_class_folders(tmp_path)
    write_photo(tmp_path / "top.jpg")
    assert not T.is_class_folders(tmp_path)


def test_voc_lists_with_per_class_flags(tmp_path) -> None:
    main = tmp_path / "ImageSets" / "Main"
    flags = {"cat": {"1": 1, "2": 0, "3": -1}, "dog": {"1": 1, "2": 1}}
    voc_lists.write_split(main, "train", flags, ["1", "2", "3"])
    voc_lists.write_split(main, "val", {"cat": {"4": 1}, "dog": {}}, ["4"])
    # Flag 0, only a difficult object, is no tag
    for path in (main, main / "train.txt"):
        read = T.read_tags(path)
        assert read.rows == {"1": ("cat", "dog"), "2": ("dog",), "3": ()}
        assert read.class_names == ("cat", "dog")
        assert not read.complete
    assert T.read_tags(main, split="val").rows == {"4": ("cat",)}
    assert T.read_tags(main / "val.txt").rows == {"4": ("cat",)}
    with pytest.raises(UserError, match=r"wanted the split 'test' in .*, found train, val"):
        T.read_tags(main, split="test")


def test_voc_lists_without_flags_take_the_names_in_the_xml(shared_data) -> None:
    main = shared_data / "bccd3" / "ImageSets" / "Main"
    read = T.read_tags(main / "test.txt")
    assert len(read.rows) == len((main / "test.txt").read_text().split())
    assert read.class_names == ("Platelets", "RBC", "WBC")
    assert read.rows["BloodImage_00007"] == ("RBC", "WBC")
    assert len(T.read_tags(main).rows) == len((main / "train.txt").read_text().split())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "without any row"),
        ("t.csv", "file,tags\n", "without any row"),
        ("t.json", "", "empty file"),
        ("t.json", "{}", "without any row"),
        ("t.jsonl", "\n", "without any row"),
        ("t.json", "{'a': 1}", "not JSON"),
        ("t.json", '{"a.jpg": 3}', "list of class names per image"),
        ("t.json", '[{"file": "a.jpg"}]', "wanted objects like"),
        ("t.jsonl", '{"a.jpg": ["x"]}\noops', "one JSON object per line"),
        ("t.csv", "file\na.jpg\n", "column of tags"),
        ("t.csv", "file,tags\n,apple\n", "file name in the first column"),
        ("t.xls", "a,b", "convert or rename"),
    ],
)
def test_a_broken_tag_file_is_one_sentence_with_its_path(tmp_path, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        T.read_tags(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert str(caught.value).startswith("wanted ")
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_and_missing_paths(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes("a.jpg,Kürbis".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        T.read_tags(tmp_path / "t.csv")
    with pytest.raises(UserError, match="found nothing there"):
        T.read_tags(tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="one folder of photos per class"):
        T.read_tags(tmp_path / "empty")
