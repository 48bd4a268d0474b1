"""Text files: what is in them, and one sentence with the file's name for every way in which one cannot be read."""

from pathlib import Path

import pytest

from weaksam.config import UserError
from weaksam.data.text_files import parse_json, read_json, read_json_lines, read_text, read_yaml

BOM = b"\xef\xbb\xbf"


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_is_no_content(tmp_path):
    assert read_text(write(tmp_path, BOM + "é\n".encode()), "tags") == "é\n"
    assert read_json(write(tmp_path, BOM + b'{"a": [1]}'), "tags") == {"a": [1]}
    assert read_json_lines(write(tmp_path, BOM + b"[1]\n\n  \n[2]"), "tags") == [[1], [2]]
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
    with pytest.raises(UserError, match=r"wanted tags at .*file, found a file that cannot be read .*utf-8"):
        read(write(tmp_path, b"\xff\xfe\x00"), "tags")


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
