"""Only regular files are read, and no more of them than the limit allows."""

import os
from pathlib import Path

import pytest

from weaksam.regular_files import NotRegularError, TooLargeError, open_regular, read_regular


def test_a_file_and_a_link_to_it_are_read(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"abc"
        assert read_regular(tmp_path / name, 3) == b"abc"
    (tmp_path / "empty").touch()
    assert read_regular(tmp_path / "empty", 0) == b""


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name, kind in (("pipe", "a named pipe"), ("zero", "a device"), ("folder", "a folder")):
        with pytest.raises(NotRegularError) as caught:
            read_regular(tmp_path / name, 10)
        assert caught.value.strerror == f"{kind}, not a file"
        assert caught.value.filename == str(tmp_path / name)


def test_a_file_over_the_limit_is_refused_unread(tmp_path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(6 << 30)
    with pytest.raises(TooLargeError) as caught:
        read_regular(tmp_path / "sparse", 1 << 20)
    assert caught.value.strerror == "6,442,450,944 bytes, over the limit of 1,048,576"


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs a file that does not know its length")
def test_the_limit_holds_for_a_file_that_claims_no_length() -> None:
    with pytest.raises(TooLargeError, match="over the limit of 8"):
        read_regular("/proc/self/maps", 8)


def test_a_missing_file_is_the_usual_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 10)
