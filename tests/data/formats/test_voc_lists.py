"""Lists of VOC's ImageSets/Main: flags behind names, names with endings, lists of one class, and of other photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.formats.tags import read_tags
from weaksam.data.formats.voc import read_segmentation
from weaksam.data.image_names import read_image_list
from weaksam.data.name_lists import listed_names


def write_lists(folder: Path, **texts: str) -> Path:
    """``ImageSets/Main`` below ``folder`` with lists by name."""
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (main / f"{name}.txt").write_text(text)
    return main


@pytest.mark.parametrize(
    "text, names, flags",
    [
        ("a\nb\n", ["a", "b"], [None, None]),
        ("a  1\nb -1\nc\t0\n", ["a", "b", "c"], [1, -1, 0]),
        ("a.jpg 1\nb.jpg\n", ["a.jpg", "b.jpg"], [1, None]),
        ("my photo 1.jpg\nb.jpg\n", ["my photo 1.jpg", "b.jpg"], [None, None]),
        ("my photo\nphoto 1\n", ["my photo", "photo 1"], [None, None]),  # not every name has a flag: it is no flag
        ("a.jpg cat 0.5\n# a remark\n\n", ["a.jpg"], [None]),
        ("", [], []),
    ],
)
def test_flags_behind_names(tmp_path, text, names, flags):
    (tmp_path / "x.txt").write_text(text)
    entries = listed_names(tmp_path / "x.txt")
    assert [entry.name for entry in entries] == names
    assert [entry.flag for entry in entries] == flags


def test_flags_that_are_left_out_are_said(tmp_path):
    (tmp_path / "cat_test.txt").write_text("a  1\nb -1\n")
    findings = Findings()
    assert read_image_list(tmp_path / "cat_test.txt", findings).names == ("a", "b")
    assert "flags -1, 0 and 1 behind the names were left out" in findings.notes[0]


def test_names_agree_with_and_without_ending(tmp_path):
    main = write_lists(tmp_path, train="1.jpg\n2.jpg\n3.jpg\n", cat_train="1 1\n2 -1\n3 0\n", dog_train="2 1\n9 1\n")
    findings = Findings()
    tags = read_tags(main, findings=findings)
    assert tags.rows == {"1.jpg": ("cat",), "2.jpg": ("dog",), "3.jpg": ()}
    assert findings.notes == (
        f"{main}: 3 photos of train, 2 class lists; without a flag, read as absent: 2; flags of 0 (difficult objects "
        "alone), read as absent: 1; in class lists but not in train.txt, left out: 1 (9)",
    )


def test_lists_of_other_photos_are_refused(tmp_path):
    main = write_lists(tmp_path, train="1\n2\n", cat_train="7 1\n8 -1\n")
    with pytest.raises(UserError, match=r"found none of them there \(7, 8\): give lists of one split"):
        read_tags(main)


def test_the_list_that_is_named_is_read(tmp_path):
    """Another list of the folder was read instead, without a word."""
    flags = {"cat_trainval": "1 1\n2 1\n", "cat_val": "2 1\n", "dog_val": "2 -1\n"}
    main = write_lists(tmp_path, trainval="1\n2\n", val="2\n", mine_val="1\n", **flags)
    findings = Findings()
    assert read_tags(main / "cat_val.txt", findings=findings).rows == {"2": ("cat",)}
    assert any("the list of one class was taken for its split val" in note for note in findings.notes)
    assert any("names without flags were read as no list of a class" in note for note in findings.notes)
    annotations = tmp_path / "Annotations"
    annotations.mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (annotations / "1.xml").write_text(f"<annotation><object><name>fig</name>{box}</object></annotation>")
    assert read_tags(main / "mine_val.txt").rows == {"1": ("fig",)}
    (main / "mine_val.txt").write_text("1.jpg\n")
    assert read_tags(main / "mine_val.txt").rows == {"1.jpg": ("fig",)}
    (main / "mine_val.txt").write_text("1\n5\n")
    gathered = Findings(gather=True)
    assert read_tags(main / "mine_val.txt", findings=gathered).rows == {"1": ("fig",)}
    assert "found none for 5" in gathered.faults[0]


def test_faulty_lines_are_named(tmp_path):
    main = write_lists(tmp_path, train="1\n2\n", cat_train="1 1\n2 7\n")
    with pytest.raises(UserError, match=r"flag -1, 0 or 1 in .*cat_train.txt, found '2 7' in line 2"):
        read_tags(main)
    (main / "cat_train.txt").write_text("1 1\n1 -1\n")
    with pytest.raises(UserError, match=r"another one for '1' in line 2"):
        read_tags(main)


# Pictures of labels


def label_picture(path: Path, mode: str, size: tuple[int, int] = (8, 6)) -> Path:
    """An empty picture of a Pillow mode, (width, height)."""
    Image.new(mode, size).save(path)
    return path


@pytest.mark.parametrize(
    "mode, wanted", [("RGB", "colours"), ("RGBA", "colours"), ("LA", "colours"), ("I;16", "uint16"), ("1", "bool")]
)
def test_pictures_of_another_mode_are_refused(tmp_path, mode, wanted):
    classes, objects = label_picture(tmp_path / "c.png", "L"), label_picture(tmp_path / "o.png", mode)
    with pytest.raises(UserError, match=f"labels of 8 bits in .*o.png, found .*{wanted}: save it with a palette"):
        read_segmentation(classes, objects)


def test_pictures_are_compared_with_their_photo(tmp_path):
    classes, objects = label_picture(tmp_path / "c.png", "P"), label_picture(tmp_path / "o.png", "P")
    assert len(read_segmentation(classes, objects, (6, 8))) == 0
    with pytest.raises(UserError, match=r"it is 6 x 8 but the picture .*o.png says 8 x 6, .* turned photo"):
        read_segmentation(classes, objects, (8, 6))
    with pytest.raises(UserError, match=r"wanted a label picture at .*gone.png, found nothing there"):
        read_segmentation(classes, tmp_path / "gone.png")
    Image.fromarray(np.ones((6, 8), np.uint8)).save(objects)
    with pytest.raises(UserError, match="wanted a class under object 1"):
        read_segmentation(classes, objects)
