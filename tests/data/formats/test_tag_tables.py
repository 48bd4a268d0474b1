"""Tag tables as people have them: which column is taken for what, and what is refused."""

from pathlib import Path

import pytest

from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_dataset
from weaksam.data.findings import Findings
from weaksam.data.formats.tags import read_tags
from weaksam.data.image_names import ImageNames

WANTED = {"2.jpg": ("plum",), "0.jpg": ("apple",), "1.jpg": ("pear",)}
ONE_HOT = {"2.jpg": ("plum",), "0.jpg": ("apple",), "1.jpg": ()}

LAYOUTS = {
    "pandas' index": ",filename,label\n0,2.jpg,plum\n1,0.jpg,apple\n2,1.jpg,pear\n",
    "an id first": "id,filename,label\n0,2.jpg,plum\n1,0.jpg,apple\n2,1.jpg,pear\n",
    "an index without names": "0,2.jpg,plum\n1,0.jpg,apple\n2,1.jpg,pear\n",
    "label first": "label,filename\nplum,2.jpg\napple,0.jpg\npear,1.jpg\n",
    "label first without names": "plum,2.jpg\napple,0.jpg\npear,1.jpg\n",
    "splits without names": "TRAIN,2.jpg,plum\nTEST,0.jpg,apple\nVALIDATION,1.jpg,pear\n",
    "Excel's sep": "\ufeffsep=;\r\nfile;tags\r\n2.jpg;plum\r\n0.jpg;apple\r\n1.jpg;pear\r\n",
    "a comma in a name": "Datei;Bemerkung, kurz;Klasse\n2.jpg;a, b;plum\n0.jpg;;apple\n1.jpg;;pear\n",
    "boxes": "filename,width,height,class,xmin,ymin\n2.jpg,9,9,plum,1,2\n0.jpg,9,9,apple,1,2\n1.jpg,9,9,pear,1,2\n",
    "numbers beside names": "file,class_id,class\n2.jpg,7,plum\n0.jpg,8,apple\n1.jpg,9,pear\n",
    "numbers as another label": "file,label,category\n2.jpg,7,plum\n0.jpg,8,apple\n1.jpg,9,pear\n",
    "Chinese": "文件名,标签\n2.jpg,plum\n0.jpg,apple\n1.jpg,pear\n",
    "bars": "2.jpg|plum\n0.jpg|apple\n1.jpg|pear\n",
    "blanks": "2.jpg plum\n0.jpg apple\n1.jpg pear\n",
    "a remark": "# by me\nfile;tags\n2.jpg;plum\n0.jpg;apple\n1.jpg;pear\n",
    "lists": "file,tags\n2.jpg,['plum']\n0.jpg,['apple']\n1.jpg,\"['pear']\"\n",
    "a species": "name,species,count\n2.jpg,plum,3\n0.jpg,apple,4\n1.jpg,pear,5\n",
}
FLAG_LAYOUTS = {
    "counts": "filename,apple,plum\n2.jpg,0,3\n0.jpg,2,0\n1.jpg,0,0\n",
    "minus one": "filename,apple,plum\n2.jpg,-1,1\n0.jpg,1,-1\n1.jpg,-1,-1\n",
    "index": ",file,apple,plum\n7,2.jpg,0,1\n8,0.jpg,1,0\n9,1.jpg,0,0\n",
    "nameless file": ",apple,plum\n2.jpg,0,1\n0.jpg,1,0\n1.jpg,0,0\n",
    "split": "split,file,apple,plum\ntrain,2.jpg,0,1\ntest,0.jpg,1,0\nval,1.jpg,0,0\n",
    "floats and nan": "file,apple,plum\n2.jpg,nan,1.0\n0.jpg,1.0,0.0\n1.jpg,,nan\n",
}


def read(tmp_path: Path, text: str, encoding: str = "utf-8") -> dict[str, tuple[str, ...]]:
    path = tmp_path / "tags.csv"
    path.write_text(text, encoding=encoding, newline="")
    return dict(read_tags(path).rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_column_of_photos_and_that_of_tags(tmp_path, layout) -> None:
    assert read(tmp_path, LAYOUTS[layout]) == WANTED


@pytest.mark.parametrize("layout", FLAG_LAYOUTS)
def test_a_column_of_numbers_per_class(tmp_path, layout) -> None:
    assert read(tmp_path, FLAG_LAYOUTS[layout]) == ONE_HOT


def test_utf16_as_a_spreadsheet_writes_it(tmp_path) -> None:
    assert read(tmp_path, "file\ttags\r\na.jpg\tKürbis\r\n", "utf-16") == {"a.jpg": ("Kürbis",)}


def test_what_was_taken_for_what_is_said(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("id,filename,label\n0,b.jpg,fig\n1,a.jpg,nan\n2,a.jpg,\n")
    findings = Findings()
    assert read_tags(tmp_path / "t.csv", findings=findings).rows == {"b.jpg": ("fig",), "a.jpg": ()}
    assert findings.counts == [
        f"{tmp_path / 't.csv'}: 3 rows of 2 photos, joined by photo, 2 without a tag; columns: file = 'filename', "
        "tags = 'label'; not used: 'id'"
    ]
    assert findings.problems == (f"{tmp_path / 't.csv'}, line 3: 'nan' was read as no tag",)


def test_the_photos_tell_which_of_two_columns_names_them(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("id,name,label\n1,x0,fig\n2,x1,pear\n")
    by_id = read_tags(tmp_path / "t.csv", photo_names=ImageNames(["1.jpg", "2.jpg"])).rows
    by_name = read_tags(tmp_path / "t.csv", photo_names=ImageNames(["x0.jpg", "x1.jpg"])).rows
    assert (list(by_id), list(by_name)) == (["1", "2"], ["x0", "x1"])


@pytest.mark.parametrize(
    ("column", "cells", "names"),
    [
        ("label", ["hot dog", "dog", "fig tree"], [("hot dog",), ("dog",), ("fig tree",)]),
        ("label", ["hot dog", "dog", "hot"], [("hot", "dog"), ("dog",), ("hot",)]),
        ("label", ["apple/pear", "pear", "apple"], [("apple", "pear"), ("pear",), ("apple",)]),
        ("label", ["red apple", "red pear", "big apple"], [("red apple",), ("red pear",), ("big apple",)]),
        (
            "tags",
            ["haze day", "clear day", "haze sea", "clear sea", "clear day sea"],
            [("haze", "day"), ("clear", "day"), ("haze", "sea"), ("clear", "sea"), ("clear", "day", "sea")],
        ),
    ],
)
def test_blanks_and_slashes_part_tags_only_where_that_is_clear(tmp_path, column, cells, names) -> None:
    text = f"file,{column}\n" + "".join(f"{place}.jpg,{cell}\n" for place, cell in enumerate(cells))
    assert list(read(tmp_path, text).values()) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,apple,pear\na.jpg,0.93,0.02\n", r"found 0\.93 under 'apple' in line 2: make scores flags"),
        ("file,apple,pear\na.jpg,-7,2\n", r"found -7 under 'apple' in line 2"),
        ("file,label\na.jpg,0.93\n", r"found '0\.93' \(a number\) for 'a\.jpg' in line 2"),
        ("file,apple,pear\na.jpg,90%,10%\n", r"found '90%' \(a number\)"),
        ("file,label\na.jpg,b.jpg\n", r"found 'b\.jpg' \(a photo's name\)"),
        ('file,label\na.jpg,"{""a"": 1}"\n', r"\(JSON\) for 'a\.jpg' in line 2"),
        ("a.jpg,20,20,60,60,apple\n", r"found numbers \(20 in column 2, .*line 1\): add a first line that names"),
        ("TRAIN,gs://b/a.jpg,apple,0.1,0.2,,,0.5,0.6,,\n", r"found numbers \(0\.1 in column 4"),
        ("a.jpg,3\nb.jpg,4\n", "found numbers"),
        ("file,width,height\na.jpg,640,480\n", "found only 'width', 'height': call the column of class names 'label'"),
        ("file,remark2,a,b\na.jpg,text,3,5\n", "found text in 'remark2' and numbers in 'a', 'b'"),
        ("ImageID,LabelName,Confidence\na,x,1\nb,x,0\n", "found 0 as 'Confidence' in line 3"),
        ("file,apple,apple\na.jpg,1,0\n", "found 'apple' twice: rename the column"),
        ("file,apple,pear\na.jpg,1\n", "wanted 3 cells as the first row in .*, found 2 in line 2"),
        ("file,label,width\na.jpg,fig,3,pear\n", "wanted 3 cells as the first row in .*, found 4 in line 2"),
        ('file,tags\na.jpg,"fig\nb.jpg,pear\n', "wanted each quote closed .* in the row of line 2"),
        ('file,tags\na.jpg,"fig"s\n', "wanted each quote closed .* in the row of line 2"),
        ('file,tags\na.jpg,"' + "x" * 140_000 + '"\n', "wanted each quote closed .* in the row of line 2"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_with_its_line(tmp_path, text, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "tags.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "wanted an object or a list of image tags in .*, found 3"),
        ("null", "found null"),
        ('[["a.jpg", "apple"]]', r"found \[\"a\.jpg\", \"apple\"\] as entry 1"),
        ('{"a.jpg": {"apple": 0.93}}', r"found \{\"apple\": 0\.93\} at entry 'a\.jpg'"),
        ('{"a.jpg": true}', "found true at entry 'a.jpg'"),
        ('{"apple": ["a.jpg"]}', r"found 'a\.jpg' \(a photo's name\) for 'apple'"),
        ('{"a.jpg": [1, 0]}', r"found \[1, 0\] at entry 'a\.jpg', which may be a flag for each class"),
        ('{"a.jpg": ["\\u200bapple"]}', r"found '.*apple' \(an invisible character\)"),
        ('{"a.jpg": ["caf\\udce9"]}', r"found 'caf\\xe9' \(control characters\)"),
    ],
)
def test_json_of_another_shape_is_one_sentence_with_its_entry(tmp_path, text, message) -> None:
    (tmp_path / "tags.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_tags(tmp_path / "tags.json")


@pytest.mark.parametrize("text", ['{"a.jpg": [2, 5], "b.jpg": [1]}', '[{"file": "a.jpg", "label": 3}]'])
def test_numbers_as_names_in_json_are_said(tmp_path, text) -> None:
    (tmp_path / "tags.json").write_text(text)
    findings = Findings()
    rows = read_tags(tmp_path / "tags.json", findings=findings).rows
    assert rows["a.jpg"] in (("2", "5"), ("3",))
    assert f"{tmp_path / 'tags.json'}: whole numbers were read as names of classes" in findings.notes


def test_json_with_an_id_first_counts_and_null(tmp_path) -> None:
    path = tmp_path / "tags.json"
    path.write_text('[{"id": 0, "image": "b.jpg", "label": "fig"}, {"id": 1, "file_name": "a.jpg", "tags": null}]')
    assert read_tags(path).rows == {"b.jpg": ("fig",), "a.jpg": ()}
    path.write_text('{"a.jpg": {"fig": 2, "pear": -1, "plum": null}, "b.jpg": {"label": "pear", "width": 640}}')
    assert read_tags(path).rows == {"a.jpg": ("fig",), "b.jpg": ("pear",)}


# With photos


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in ("0.jpg", "1.jpg", "2.jpg"):
        write_photo(tmp_path / "photos" / name, int(name[0]))
    return tmp_path


def loaded(folder: Path, text: str) -> tuple[dict[str, list[str]], str, list[str]]:
    """Class names by image id, the notes, and what data check says besides rare classes."""
    (folder / "tags.csv").write_text(text)
    split = SplitSettings(images=folder / "photos", tags=folder / "tags.csv")
    dataset = load_dataset(split, name="train")
    lines = [line for line in check_data(DataSettings(train=split)) if "is tagged in" not in line]
    tags = {sample.image_id: [dataset.classes[label] for label in sample.tags] for sample in dataset}
    return tags, "\n".join(dataset.notes), lines


def test_paths_of_another_machine_and_rows_that_mean_one_photo(photos) -> None:
    tags, notes, _ = loaded(photos, "C:\\me\\0.jpg,fig\nhttps://host/x/1.jpg?size=2,pear\n/data/2.jpg,fig\n")
    assert tags == {"0.jpg": ["fig"], "1.jpg": ["pear"], "2.jpg": ["fig"]}
    assert "3 whole paths or addresses were matched by their last parts" in notes
    tags, notes, lines = loaded(photos, "0.jpg,fig\nphotos/0.jpg,pear\n1.jpg,fig\n2.jpg,fig\n")
    assert tags["0.jpg"] == ["fig", "pear"]
    assert "was joined with '0.jpg', another row of 0.jpg" in notes
    assert [line.rpartition("'photos/0.jpg'")[2] for line in lines] == [
        ": was joined with '0.jpg', another row of 0.jpg"
    ]


def test_a_photo_of_another_folder_is_not_taken_where_its_name_comes_twice(tmp_path) -> None:
    write_photo(tmp_path / "photos" / "dog" / "1.jpg")
    (tmp_path / "tags.csv").write_text("/data/cat/1.jpg,cat\n/data/dog/1.jpg,dog\n")
    split = SplitSettings(images=tmp_path / "photos", tags=tmp_path / "tags.csv")
    dataset = load_dataset(split, name="train")
    assert [[dataset.classes[label] for label in sample.tags] for sample in dataset] == [["dog"]]
    assert [image_id for image_id, _ in dataset.bad] == ["/data/cat/1.jpg"]


def test_two_spellings_of_a_class(photos) -> None:
    text = "0.jpg,Fig\n1.jpg,fig \n2.jpg,pear\n"
    with pytest.raises(UserError, match=r"wanted one spelling of each class in .*, found 'Fig' and 'fig'"):
        loaded(photos, text)
    lines = check_data(DataSettings(train=SplitSettings(images=photos / "photos", tags=photos / "tags.csv")))
    assert any("found 'Fig' and 'fig'" in line for line in lines)
    tags, notes, _ = loaded(photos, "0.jpg,Ku\u0308rbis\n1.jpg,K\u00fcrbis\n2.jpg,pear\n")
    assert tags["0.jpg"] == tags["1.jpg"]
    assert "in two Unicode forms was taken for one class" in notes


def test_check_lists_all_faults_of_which_a_run_says_the_first(photos) -> None:
    (photos / "tags.csv").write_text("file,tags\n0.jpg,0.5\n1.jpg,fig\n2.jpg,0.7\n,fig\n")
    split = SplitSettings(images=photos / "photos", tags=photos / "tags.csv")
    lines = check_data(DataSettings(train=split))
    assert sum("(a number)" in line for line in lines) == 2
    assert any("found none in line 5: fill it in" in line for line in lines)
    with pytest.raises(UserError, match="found none in line 5"):
        load_dataset(split, name="train")
