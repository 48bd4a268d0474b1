"""Text files: what is in them, and one sentence with the file's name for every way in which one cannot be read."""

from pathlib import Path

import pytest

from weaksam.config import UserError
from weaksam.data.text_files import is_utf8, parse_json, printable, read_json, read_json_lines, read_text, read_yaml

BOM = b"\xef\xbb\xbf"


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_is_no_content(tmp_path):
    assert read_text(write(tmp_path, BOM + "é\n".encode()), "tags") == "é\n"
    assert read_json(write(tmp_path, BOM + b'{"a": [1]}'), "tags") == {"a": [1]}
    assert read_json_lines(write(tmp_path, BOM + b"[1]\n\n  \n[2]"), "tags") == [(1, [1]), (4, [2])]
    assert read_yaml(write(tmp_path, BOM + b"names: [a, b]"), "names") == {"names": ["a", "b"]}


def test_empty_files(tmp_path):
    path = write(tmp_path, b" \n")
    assert read_text(path, "tags") == " \n"
    assert read_json_lines(path, "tags") == []
    assert read_yaml(path, "names") is None
    with pytest.raises(UserError, match=r"wanted tags at .*file, found an empty file"):
        read_json(path, "tags")


@pytest.mark.parametrize("read", [read_text, read_json, read_json_lines, read_yaml])
def test_what_is_missing_or_no_text(tmp_path, read):
    with pytest.raises(UserError, match=r"wanted tags at .*gone, found nothing there: check the path"):
        read(tmp_path / "gone", "tags")
    with pytest.raises(UserError, match=r"wanted tags at .*, found a file that cannot be read"):
        read(tmp_path, "tags")
    with pytest.raises(UserError, match=r"wanted tags at .*file, .* \(byte 0x00 in line 1 is not utf-16\).*UTF-8"):
        read(write(tmp_path, b"\xff\xfe\x00"), "tags")
    with pytest.raises(UserError, match=r"\(byte 0xfc in line 2 is not utf-8\): save it with the encoding UTF-8"):
        read(write(tmp_path, b"a\nK\xfcrbis"), "tags")


@pytest.mark.parametrize("text", ["{'a': 1}", "{", "[" * 100_000, "1" * 5000])
def test_what_is_not_json(tmp_path, text):
    with pytest.raises(UserError, match=r"wanted tags at .*file, found text that is not JSON"):
        read_json(write(tmp_path, text.encode()), "tags")
    with pytest.raises(UserError, match=r"wanted one JSON object per line in .*file"):
        read_json_lines(write(tmp_path, text.encode()), "tags")
    with pytest.raises(UserError, match="not JSON"):
        parse_json(text.encode(), tmp_path / "table.parquet", "a list of images")


@pytest.mark.parametrize("text", ["names: [a", "a: b: c", "day: 2024-13-99"])
def test_what_is_not_yaml(tmp_path, text):
    with pytest.raises(UserError, match=r"wanted names in .*file, found an error"):
        read_yaml(write(tmp_path, text.encode()), "names")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_declares_the_encoding_and_line_ends_are_one_kind(tmp_path, encoding):
    assert read_text(write(tmp_path, "Kürbis\r\n写真\rb\n".encode(encoding)), "tags") == "Kürbis\n写真\nb\n"


def test_a_key_that_comes_twice_is_named(tmp_path):
    with pytest.raises(UserError, match=r"wanted each key once in .*file, found 'a\.jpg' twice in one object"):
        read_json(write(tmp_path, b'{"a.jpg": ["x"], "b": {"c": 1}, "a.jpg": ["y"]}'), "tags")
    with pytest.raises(UserError, match=r"wanted each key once in line 2 of .*file, found 'k' twice"):
        read_json_lines(write(tmp_path, b'{"k": 1}\n{"k": 1, "k": 2}'), "tags")


def test_a_fault_in_json_has_its_line(tmp_path):
    with pytest.raises(UserError, match=r"not JSON \(line 3, column 1: expecting ',' delimiter\)"):
        read_json(write(tmp_path, b'{"a": 1\n\n"b": 2}'), "tags")
    with pytest.raises(UserError, match=r"found 'oops' in line 3 \(line 1, column 1: expecting value\): mend it"):
        read_json_lines(write(tmp_path, b'{"a": 1}\n\noops\n'), "tags")
    separator = "\u2028"  # ends no line of JSON, though Python's splitlines thinks so
    assert read_json_lines(write(tmp_path, f'["a{separator}b"]'.encode()), "tags") == [(1, [f"a{separator}b"])]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("Kürbis 写真 [1]#;=.jpg", "Kürbis 写真 [1]#;=.jpg"),
        ("caf\udce9.jpg", "caf\\xe9.jpg"),
        ("a\nb\x1b[31m\x9b.jpg", "a\\nb\\x1b[31m\\x9b.jpg"),
        ("gpj.\u202ea", "gpj.\\u202ea"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_what_any_terminal_can_take(text, printed):
    assert printable(text) == printed
    assert printable(text).encode() is not None
    assert is_utf8(text) == ("\ud83d" not in text and "\udce9" not in text)
