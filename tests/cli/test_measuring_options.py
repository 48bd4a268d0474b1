"""The options of the measuring commands: what their text means, and what is refused."""

import pytest

from weaksam.cli.measuring_options import parse_classes, parse_counts, parse_sets
from weaksam.config import UserError


def test_classes_with_commas_or_from_a_file(tmp_path):
    (tmp_path / "classes.txt").write_text("ant\nbird\n\ncat\n")
    assert parse_classes(str(tmp_path / "classes.txt")) == ("ant", "bird", "cat")
    assert parse_classes("cat, dog") == ("cat", "dog") and parse_classes(None) is None
    with pytest.raises(UserError, match="each once"):
        parse_classes("cat,cat")


def test_sets_are_named_or_named_after_their_path(tmp_path):
    (tmp_path / "a=b").mkdir()
    sets = parse_sets([f"x={tmp_path}", str(tmp_path / "a=b"), str(tmp_path / "c.json")])
    assert sets == {"x": tmp_path, "a=b": tmp_path / "a=b", "c": tmp_path / "c.json"}
    with pytest.raises(UserError, match="found none"):
        parse_sets([])


def test_counts_are_sorted_and_each_once():
    assert parse_counts("100, 5,100") == (5, 100)
    with pytest.raises(UserError, match="'0,5'"):
        parse_counts("0,5")
