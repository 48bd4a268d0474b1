"""VOC XML as it comes: encodings, namespaces, sub-folders, other shapes than boxes, corners the wrong way round."""

from pathlib import Path

import pytest

from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_dataset
from weaksam.data.findings import Findings
from weaksam.data.formats import voc
from weaksam.data.truth import read_measured_truth

SIZE = "<size><width>120</width><height>90</height></size>"
APPLE = "苹果"


def box(x1="21", y1="21", x2="60", y2="60") -> str:
    return f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"


def obj(name="apple", inside="", corners=None) -> str:
    return f"<object><name>{name}</name>{inside}{box() if corners is None else corners}</object>"


def xml(objects: str, head: str = "", size: str = SIZE, attributes: str = "") -> str:
    return f"{head}<annotation{attributes}><filename>a.jpg</filename>{size}{objects}</annotation>"


def read(folder: Path, content: str | bytes, name: str = "a.xml"):
    """The annotations of a folder with one file, its only image's boxes, and what was noticed."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    findings = Findings()
    annotations = voc.read_annotations(folder, findings)
    (image,) = annotations.images.values()
    return annotations, image.instances.boxes.tolist(), findings


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<?xml version="1.0" encoding="gb2312"?>', "gb2312"),
        ("<?xml version='1.0' encoding='GBK'?>\r\n", "gbk"),
        ('<?xml version="1.0" encoding="big5"?>', "big5"),
        ('<?xml version="1.0" encoding="utf-16"?>', "utf-16"),
        ('<?xml version="1.0" encoding="utf-16"?>', "utf-8"),
        ('<?xml version="1.0"?>', "utf-16-le"),
        ('<?xml version="1.0" encoding="utf-8"?>', "utf-8-sig"),
        ("", "utf-8"),
    ],
)
def test_encodings(tmp_path, head, encoding):
    name = "蘋果" if encoding == "big5" else APPLE
    annotations, boxes, _ = read(tmp_path, xml(obj(name), head).encode(encoding))
    assert annotations.classes == (name,) and boxes == [[20, 20, 60, 60]]


@pytest.mark.parametrize(
    "content",
    [
        xml(obj(), attributes=' xmlns="http://example.org/voc"'),
        xml(obj()).replace("object", "Object").replace("xmin", "XMin"),
        xml(obj(" apple ")),
        xml(obj(inside=f"<part><name>stem</name>{box(1, 1, 2, 2)}</part>")),
        xml(f"<object><name>apple</name>{box()}<part><name>stem</name>{box(1, 1, 2, 2)}</part></object>"),
    ],
)
def test_other_spellings_of_one_object(tmp_path, content):
    annotations, boxes, findings = read(tmp_path, content)
    assert annotations.classes == ("apple",) and boxes == [[20, 20, 60, 60]] and findings.problems == ()
    assert findings.counts == [f"VOC XML in {tmp_path}: 1 files, 1 objects"]


@pytest.mark.parametrize(
    ("corners", "wanted", "text"),
    [
        (box("60", "60", "21", "21"), [20, 20, 60, 60], "wrong way round were swapped"),
        (box("-5", "21", "60", "60"), [0, 20, 60, 60], "before the photo's first pixel were moved"),
        (
            "<polygon><x1>20</x1><y1>20</y1><x2>60</x2><y2>60</y2></polygon>",
            [20, 20, 60, 60],
            "box around a <polygon>",
        ),
        (
            "<polygon><pt><x>20</x><y>30</y></pt><pt><x>60</x><y>40</y></pt></polygon>",
            [20, 30, 60, 40],
            "box around a <polygon>",
        ),
        (
            "<robndbox><cx>40</cx><cy>40</cy><w>40</w><h>20</h><angle>0</angle></robndbox>",
            [20, 30, 60, 50],
            "box around a <robndbox>",
        ),
    ],
)
def test_what_was_taken_for_a_box_is_said(tmp_path, corners, wanted, text):
    _, boxes, findings = read(tmp_path, xml(obj(corners=corners)))
    assert boxes == [wanted]
    assert text in findings.problems[0] and f"object 1 of {tmp_path / 'a.xml'}" in findings.problems[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xml(obj(APPLE)).encode("gbk"), "names no encoding and is not utf-8 in line 1: write its encoding"),
        (xml(obj(APPLE), '<?xml version="1.0" encoding="utf-8"?>').encode("gbk"), "says utf-8 and is not"),
        (xml(obj(), '<?xml version="1.0" encoding="nonsense"?>'), "encoding that exists .* found 'nonsense'"),
        ("", "found an empty file"),
        (b"\x00\x05\x16\x07", "wanted VOC XML in"),
        (f"<annotations>{obj()}</annotations>", "found <annotations>"),
        (xml(obj(corners="")), "wanted a <bndbox> in object 1 of .*a.xml, found <name>"),
        (xml(obj() + obj(corners=box("20,6"))), "<xmin> of object 2 of .* found '20,6': write a decimal point"),
        (xml(obj(corners=box("nan"))), "found 'nan'"),
        (xml(obj(corners=box("1e99"))), "found '1e99'"),
        (xml(obj(corners=box("0.1", "0.2", "0.5", "0.6"))), "found shares of the photo"),
        (xml(obj(corners="<bndbox><xmin>1</xmin></bndbox>")), "wanted one <ymin>"),
        (xml(obj(corners=box() + box())), "wanted one <bndbox> in object 1 of .* found 2"),
        (xml(obj("0.93")), "found '0.93'"),
        (xml(obj(inside="<difficult>maybe</difficult>")), "<difficult> of object 1 .* found 'maybe'"),
        ('<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>' + xml(obj("&c;")), "declarations of entities"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]>' + xml(obj("&b;")), "declarations of entities"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("word", "wanted", "said"),
    [("1", True, 0), ("true", True, 0), ("", False, 0), ("0", False, 0), ("Unspecified", False, 1)],
)
def test_difficult(tmp_path, word, wanted, said):
    annotations, _, findings = read(tmp_path, xml(obj(inside=f"<difficult>{word}</difficult>")))
    assert annotations.images["a"].instances.difficult.tolist() == [wanted] and len(findings.problems) == said


@pytest.mark.parametrize("size", ["<size><width>0</width><height>0</height></size>", "<size/>", ""])
def test_a_size_of_nothing_is_unknown(tmp_path, size):
    write_photo(tmp_path / "photos/a.png", size=(90, 120))
    annotations, _, findings = read(tmp_path / "xml", xml(obj(), size=size))
    assert annotations.images["a"].size is None and len(findings.problems) == (1 if size else 0)
    measured, *_ = read_measured_truth(tmp_path / "xml", tmp_path / "photos")
    assert measured.images["a"].size == (90, 120)


def test_sub_folders_capital_endings_and_leftovers(tmp_path):
    for name in ("a.png", "more/b.png"):
        write_photo(tmp_path / "photos" / name, size=(90, 120))
    files = {
        "Annotations/a.XML": xml(obj()),
        "more/b.xml": xml(obj("pear")).replace("a.jpg", "b.png"),
        "._a.xml": "Mac OS X",
    }
    for name, content in files.items():
        path = tmp_path / "xml" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    split = SplitSettings(images=tmp_path / "photos", truth=tmp_path / "xml")
    dataset = load_dataset(split, name="train")
    assert [dataset.classes[sample.tags[0]] for sample in dataset] == ["apple", "pear"] and dataset.bad == ()
    counts: list[str] = []
    assert not [line for line in check_data(DataSettings(train=split), counts) if ".xml" in line.lower()]
    assert f"train: VOC XML in {split.truth}: 2 files, 2 objects" in counts


def test_two_files_of_one_photo_are_refused_and_file_names_are_told(tmp_path):
    read(tmp_path, xml(obj()))
    (tmp_path / "b.xml").write_text(xml(obj()))
    findings = Findings()
    assert set(voc.read_annotations(tmp_path, findings).images) == {"a", "b"}
    assert findings.problems == (f"{tmp_path / 'b.xml'}: the file's own name was taken and not its <filename> a.jpg",)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(xml(obj()))
    with pytest.raises(UserError, match="one file for the photo a in"):
        voc.read_annotations(tmp_path)


def test_data_check_lists_every_faulty_object(tmp_path):
    write_photo(tmp_path / "photos/a.png", size=(90, 120))
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml/a.xml").write_text(xml(obj(corners="") + obj() + obj(corners=box("x"))))
    (tmp_path / "xml/b.xml").write_text("")
    lines = check_data(DataSettings(train=SplitSettings(images=tmp_path / "photos", truth=tmp_path / "xml")))
    for words in ("object 1 of", "object 3 of", "found an empty file"):
        assert sum(words in line for line in lines) == 1
