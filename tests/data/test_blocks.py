"""Rows that are read many at a time give what they give one by one, on odd input above all."""

import itertools
import random

import pytest

from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings
from weaksam.data.findings import Findings
from weaksam.data.formats import tables, tag_tables
from weaksam.data.formats.tags import read_tags
from weaksam.data.image_names import ImageNames
from weaksam.terminal import all_printable, printable

PHOTOS = ("a.jpg", "b.jpg", "sub/c.jpg", "Ärger.jpg", "d e.jpg", "0123abcd.jpg")
FILES = (
    *PHOTOS,
    "c.jpg",
    "A.JPG",
    "a",
    "images/a.jpg",
    "./b.jpg",
    "x/./a.jpg",
    "sub\\c.jpg",
    "https://host/pics/b.jpg?x=1",
    "d%20e.jpg",
    "C:\\pics\\a.jpg",
    "../a.jpg",
    "/data/b.jpg",
    "deadbeef-a.jpg",
    "A\u0308rger.jpg",
    "gone.jpg",
    "sub/gone.jpg",
    "gone",
    "b.",
    "a.png",
    "x/",
    "x/.",
    "evil\x1b[1m.jpg",
    "\u202egone.jpg",
)
CELLS = ("fig", "fig;pear", "pear|fig", "", "nan", "é", "e\u0301", "0.5", "a.jpg", "{x", "fig\u200b", "a b", "Fig", "7")


def table_text(seed: int, num_rows: int) -> str:
    """Rows of odd names and cells, most of them plain, some too short, too long, blank, in quotes or of two lines."""
    draw = random.Random(seed)
    lines = ["file,tags"]
    for row in range(num_rows):
        file = draw.choice(FILES) if draw.random() < 0.3 else f"{draw.choice(('', 'sub/'))}m{row:05d}.jpg"
        cell = draw.choice(CELLS) if draw.random() < 0.05 else draw.choice(CELLS[:3])
        line = f"{file},{cell}"
        if draw.random() < 0.03:
            line = draw.choice(
                [file, "", f"{line},more", f'"{file}","{cell}"', f'"two\n{file}",{cell}', "# by me", f",{cell}"]
            )
        lines.append(line)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(PHOTOS):
        write_photo(folder / name, seed)
    return folder


def one_by_one(monkeypatch) -> None:
    """Read everything that has a block row by row, name by name."""
    monkeypatch.setattr(tables, "_FIRST_ROWS", 1)
    monkeypatch.setattr(tables, "_BLOCK_CELLS", 1)
    monkeypatch.setattr(tag_tables, "_BLOCK", 1)
    monkeypatch.setattr(ImageNames, "may_be_known", lambda self, names: [True] * len(names))


@pytest.mark.parametrize("seed", range(6))
def test_a_table_is_checked_alike_in_blocks_and_row_by_row(seed, photos, tmp_path, monkeypatch) -> None:
    (tmp_path / "t.csv").write_text(table_text(seed, 700))
    data, counts = DataSettings(train=SplitSettings(images=photos, tags=tmp_path / "t.csv")), ([], [])
    lines = list(check_data(data, counts[0]))
    one_by_one(monkeypatch)
    assert list(check_data(data, counts[1])) == lines and counts[0] == counts[1]
    assert any("but not in" in line for line in lines) and any("m00" in line for line in lines)


@pytest.mark.parametrize("seed", range(3))
def test_a_table_gives_the_same_rows_and_guesses_at_the_same_lines(seed, tmp_path, monkeypatch) -> None:
    (tmp_path / "t.csv").write_text(table_text(seed, 700))
    gathered = Findings(gather=True), Findings(gather=True)
    rows = read_tags(tmp_path / "t.csv", findings=gathered[0]).rows
    one_by_one(monkeypatch)
    plain = read_tags(tmp_path / "t.csv", findings=gathered[1]).rows
    assert list(rows.items()) == list(plain.items()) and len(rows) > 500
    assert gathered[0] == gathered[1] and gathered[0].faults and gathered[0].guesses


@pytest.mark.parametrize("place", [3, 64, 65, 8191, 8300])
def test_a_quote_left_open_is_refused_with_the_line_where_its_row_begins(place, tmp_path) -> None:
    rows = [f'm{number}.jpg,"two\nlines"' if number == 1 else f"m{number}.jpg,fig" for number in range(9000)]
    rows[place] = f'm{place}.jpg,"fig'
    (tmp_path / "t.csv").write_text("file,tags\n" + "\n".join(rows))
    with pytest.raises(UserError, match=f"in the row of line {place + 3}: mend"):
        read_tags(tmp_path / "t.csv")


NAMES = (*FILES, "", " a.jpg", "a.jpg ", "\t", "two\nlines.jpg", "m00001.jpg", "sub/m1.jpg", ".", "..", "1234567-b.jpg")


@pytest.mark.parametrize("pair", list(itertools.product(NAMES, ["m00002.jpg", "sub/c.png"])))
def test_a_name_that_surely_means_no_photo_means_none(pair) -> None:
    known = ImageNames(PHOTOS)
    for names in (pair, pair[::-1], pair[:1]):
        for name, may_be_known in zip(names, known.may_be_known(names), strict=True):
            if not may_be_known:
                assert known.find_name(name, "t.csv") is None and known.find_name(name, "t.csv", Findings()) is None
    assert known.may_be_known(()) == []


def test_few_names_may_be_known() -> None:
    names = [f"sub/m{number}.jpg" for number in range(5)]
    assert ImageNames(PHOTOS).may_be_known([*names, "c.jpg", "B.txt"]) == [False] * 5 + [True, True]


@pytest.mark.parametrize("text", ["a\x1bb", "\u2028", "\udc80", "a\x7f", "\u202e", "", "plain é", "\u2069"])
def test_many_texts_are_printable_as_each_is(text) -> None:
    texts = ["plain", text] * 3000
    assert list(all_printable(texts)) == list(map(printable, texts))


def test_rows_of_one_photo_are_joined_near_and_far_apart(tmp_path) -> None:
    rows = ["a.jpg,fig", "a.jpg,pear;fig", *(f"m{number}.jpg,fig" for number in range(9000)), "a.jpg,kiwi", "a.jpg,fig"]
    (tmp_path / "t.csv").write_text("file,tags\n" + "\n".join(rows))
    findings = Findings()
    tags = read_tags(tmp_path / "t.csv", findings=findings).rows
    assert tags["a.jpg"] == ("fig", "pear", "kiwi") and tags["m8999.jpg"] == ("fig",)
    assert "9004 rows of 9001 photos, joined by photo;" in findings.counts[0]
