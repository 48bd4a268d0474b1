"""Figures as text: numbers, tables, and the brief line of a stage."""

import math

from weaksam.evaluation.text import brief, number, table_lines, titled_table_lines


def test_numbers_have_three_decimals_and_a_dash_where_there_is_none():
    assert [number(value) for value in (0.12345, 1, None, math.nan)] == ["0.123", "1.000", "-", "-"]


def test_table_lines_align():
    assert table_lines(("a", "bcd"), [("xx", "y")]) == ["a   bcd", "--  ---", "xx  y"]
    assert table_lines(("a",), []) == ["a", "-"]


def test_titled_tables_align_right():
    lines = titled_table_lines("recall", ["1", "all"], {"ours": ["0.500", "-"]}, 8)
    assert lines == ["recall          1      all", "ours        0.500        -", ""]


def test_brief_says_what_was_measured():
    figures = {"a": {"mean": {"0.5": 0.25}}, "b": {"mean": None}}
    assert brief(figures, ("a/mean/0.5", "AP50"), ("b/mean", "CorLoc"), ("c/x", "none")) == "AP50 0.250"
    assert brief({}, ("a/mean/0.5", "AP50")) == "not measured"
