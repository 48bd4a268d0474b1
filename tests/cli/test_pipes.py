"""Commands whose output nobody reads to its end, through real pipes."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT, write_photo

COMMAND = (sys.executable, "-m", "weaksam")


@pytest.fixture
def dataset(tmp_path):
    write_photo(tmp_path / "photos" / "a.jpg", 0)
    rows = "".join(f"missing-{number:06d}.jpg,fig\n" for number in range(20_000))
    (tmp_path / "tags.csv").write_text(f"file,tags\na.jpg,fig\n{rows}")
    return tmp_path


def unread(arguments: list[str], folder, *, both: bool) -> subprocess.CompletedProcess:
    """Run a command whose output (with ``both`` its errors too) goes into a pipe that is closed at the other end."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment,
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)


CHECK = ["data", "check", "--images", "photos", "--tags", "tags.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["data", "--help"], ["run", "--help"], CHECK, ["data", "synth", "scenes", "--train=1", "--test=1"]],
    ids=" ".join,
)
def test_a_command_that_nobody_reads_ends_without_a_word_as_141(arguments, both, dataset) -> None:
    done = unread(arguments, dataset, both=both)
    assert done.returncode == 141 and not done.stderr


def test_an_error_that_nobody_reads_ends_as_141_too(dataset) -> None:
    assert unread(["data", "check", "--images", "nowhere"], dataset, both=True).returncode == 141
    assert unread(["data", "chekc"], dataset, both=True).returncode == 141


def test_head_gets_its_lines_and_the_rest_is_dropped(dataset) -> None:
    script = '"$@" 2>errors | head -n 3; echo "${PIPESTATUS[0]}"'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", script, "bash", *COMMAND, *CHECK]
    done = subprocess.run(command, cwd=dataset, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "141" and len(lines) == 4 and "20001 rows of 20001 photos" in lines[0]
    assert (dataset / "errors").read_text() == ""


def test_output_that_is_read_whole_keeps_its_exit_code(dataset) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*COMMAND, *CHECK], cwd=dataset, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout.count("but not in") == 20_000 and done.stderr == ""
