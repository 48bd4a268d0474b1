"""An output folder that cannot be written to, or is another run's, is refused in one sentence that says what to do."""

import contextlib
import importlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import PROCESSES, ROOT, TOY_RUN, draw_discs
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.engine.log import RunLog
from weaksam.pipeline.owning import joining, owning
from weaksam.pipeline.settings import RunSettings
from weaksam.store.files import atomic_file, write_json_atomic
from weaksam.store.owner import Owner
from weaksam.store.weights import save_weights


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discs")
    draw_discs(folder, 2)
    return folder


def settings_of(photos: Path, out: Path, *more: str) -> RunSettings:
    data = [f"data.train.images={photos / 'photos'}", f"data.train.tags={photos / 'tags.csv'}", f"out={out}"]
    return load_settings(RunSettings, None, [*TOY_RUN, *data, *more])


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of ``size`` at ``folder``; skips where this process may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("wanted a disk of our own to fill, found that this process may not mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def file_in_the_way(folder: Path) -> Path:
    (folder / "out").touch()
    return folder / "out"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out"


def long_name(folder: Path) -> Path:
    return folder / ("x" * 300)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (file_in_the_way, "File exists.*a file stands where a folder is wanted: name another folder"),
        (below_a_file, "Not a directory.*a file stands where a folder is wanted"),
        (long_name, "File name too long.*name a folder with a shorter path"),
    ],
)
def test_a_folder_that_cannot_be_is_refused(photos, tmp_path, place, words):
    before = sorted(tmp_path.rglob("*"))
    out = place(tmp_path)
    with pytest.raises(UserError, match=words):
        pipeline.run(settings_of(photos, out))
    assert len(sorted(tmp_path.rglob("*"))) <= len(before) + 1


def test_a_read_only_disk_is_refused(photos, tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(UserError, match=r"out \(Read-only file system\): name a folder on another disk"):
            pipeline.run(settings_of(photos, disk / "out"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(photos, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"Permission denied\): name a folder that you may write to"):
        pipeline.run(settings_of(photos, tmp_path / "out"))


def fill(disk: Path) -> Path:
    """Take all room that is left on ``disk``."""
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return disk / "filler"


WRITERS = {
    "weights": lambda path: save_weights(path, {"a": torch.zeros(10_000)}),
    "json": lambda path: write_json_atomic(path, ["x" * 40_000]),
    "log": lambda path: RunLog(path).write("x" * 40_000),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_says_what_to_do_and_leaves_nothing_half(tmp_path, writer):
    with small_disk(tmp_path / "disk", "128k") as disk:
        filler = fill(disk)
        with pytest.raises(
            UserError, match=r"cannot write .*file.x \(No space left on device\): make room, then rerun"
        ):
            WRITERS[writer](disk / "file.x")
        assert not [path for path in disk.iterdir() if path.name.startswith(".")]
        filler.unlink()
        WRITERS[writer](disk / "file.x")
        assert (disk / "file.x").stat().st_size > 100


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "log"])
def test_a_limit_on_the_size_of_files_says_so(tmp_path, writer):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(UserError, match=r"\(File too large\): raise the limit .*ulimit -f"):
            WRITERS[writer](tmp_path / "file.x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_the_disk_allows_can_be_written(tmp_path):
    with atomic_file(tmp_path / ("é" * 127)) as temporary:
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["é" * 127]


def test_what_no_disk_refused_is_no_matter_of_the_disk(tmp_path):
    with pytest.raises(KeyError), atomic_file(tmp_path / "x"):
        raise KeyError("of the code")
    with pytest.raises(UserError, match="another file"), atomic_file(tmp_path / "x"):
        raise UserError("another file")


def test_a_log_cut_short_goes_on_in_a_line_of_its_own(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text('{"event": "who')
    log.write("next")
    log.write("last")
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [line.split('"event": ')[1] for line in lines] == ['"who', '"next"}', '"last"}']


def test_another_run_in_the_folder_is_refused_and_changes_nothing(photos, tmp_path):
    with owning(settings_of(photos, tmp_path / "out")):
        before = sorted((tmp_path / "out").rglob("*"))
        with pytest.raises(UserError, match="a run with other settings is under way there"):
            pipeline.run(settings_of(photos, tmp_path / "out", "seed=1"))
        with pytest.raises(UserError, match="the same run is under way there"):
            pipeline.run(settings_of(photos, tmp_path / "out"))
        assert sorted((tmp_path / "out").rglob("*")) == before
    assert list((tmp_path / "out").iterdir()) == []


def work_until_ended(settings: RunSettings, joined: Path) -> None:
    """Body of a worker process whose work never ends by itself."""
    with joining(settings, lambda: False):
        joined.touch()
        while True:
            sum(range(1000))


def own_and_wait(settings: RunSettings, joined: Path) -> None:
    with owning(settings):
        while True:
            sum(range(1000))


def test_a_worker_joins_its_run_and_ends_with_the_first_process(photos, tmp_path):
    settings = settings_of(photos, tmp_path / "out")
    worker = PROCESSES.Process(target=work_until_ended, args=(settings, tmp_path / "joined"))
    worker.start()  # before there is a run to join
    first = PROCESSES.Process(target=own_and_wait, args=(settings, tmp_path / "joined"))
    first.start()
    while not (tmp_path / "joined").exists():
        assert worker.is_alive() and first.is_alive()
    first.kill()
    worker.join(120)
    assert worker.exitcode == 1
    assert not Owner.read(tmp_path / "out").lives()


def test_a_worker_of_a_run_with_other_settings_is_refused(photos, tmp_path):
    other = settings_of(photos, tmp_path / "out", "seed=1")
    with (
        owning(settings_of(photos, tmp_path / "out")),
        pytest.raises(UserError, match=r"found a run with other settings there .*the same settings"),
        joining(other, lambda: False),
    ):
        raise AssertionError("it must not work")


def test_a_worker_whose_work_is_done_waits_for_nobody(photos, tmp_path):
    with joining(settings_of(photos, tmp_path / "out"), lambda: True):
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_whole_run_on_a_full_disk_goes_on_to_the_same_bytes_as_room_is_made(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    kills = importlib.import_module("kills")
    draw_discs(tmp_path / "discs", 6)
    unbroken, refused_in = tmp_path / "unbroken", []
    pipeline.run(settings_of(tmp_path / "discs", unbroken))
    wanted = kills.listing(unbroken)
    num_bytes = sum(path.stat().st_size for path in unbroken.rglob("*") if path.is_file())
    with small_disk(tmp_path / "disk", str(20 * num_bytes)) as disk:
        while not (disk / "out" / "report.html").exists():
            filler = fill(disk)
            os.truncate(filler, filler.stat().st_size - int(8192 * 1.4 ** len(refused_in)))
            try:
                pipeline.run(settings_of(tmp_path / "discs", disk / "out"))
            except UserError as error:
                assert "(No space left on device): make room, then rerun the same command" in str(error)
                refused_in.append(kills.place_of(disk / "out"))
            assert len(refused_in) < 40
        assert kills.differences(wanted, kills.listing(disk / "out")) == []
    assert len(refused_in) >= 6 and len(set(refused_in)) >= 3
