"""All stages on two ranks by the launch script: one record, one log, the figures of one process, and one sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, TOY_RUN, write_photo
from tests.ranks import on_ranks
from weaksam.config import UserError, load_settings
from weaksam.models.ranks import ranks
from weaksam.pipeline.running import require_same_photos
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.scenes.synthetic import SceneSettings, write_dataset

SMALL = [override for override in TOY_RUN if not override.startswith("backbone.")]
SCRIPT = ["bash", str(ROOT / "tools" / "dist_train.sh")]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's scenes, ten and two of them."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder / "data/demo", SceneSettings(size=64, num_classes=2, max_clutter=4), 10, 2, seed=1)
    return folder


def started(folder: Path, size: int, out: str, *overrides: str) -> subprocess.Popen[str]:
    """The demo on ``size`` ranks, in a session of its own."""
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    tool = ["-m", "weaksam", "run", str(ROOT / "configs" / "demo.yaml")]
    command = [*SCRIPT, str(size), *tool, *SMALL, "clues.finetune_epochs=1", f"out={out}", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)


def finished(process: subprocess.Popen[str]) -> str:
    """What it printed; it must succeed."""
    text, _ = process.communicate()
    assert process.returncode == 0, text[-3000:]
    return text


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_on_two_ranks_has_one_record_and_trains_as_alone(scenes: Path) -> None:
    text = finished(started(scenes, 2, "two"))
    finished(started(scenes, 1, "one"))
    assert len(re.findall("(?m)^wsod: .*\\([0-9:]+\\)$", text)) == 1 and text.count("report: ") == 1
    alone, both = (log_of(scenes / out) for out in ("one", "two"))
    assert [row["event"] for row in alone] == [row["event"] for row in both]
    epochs = [[row["losses"] for row in rows if row["event"] == "epoch"] for rows in (alone, both)]
    assert epochs[0][0] == pytest.approx(epochs[1][0], rel=1e-5)  # the tag network; later ones may see other seeds
    metrics = [json.loads((scenes / out / "metrics.json").read_text()) for out in ("one", "two")]
    assert [row["stage"] for row in metrics[0]["stages"]] == [row["stage"] for row in metrics[1]["stages"]]
    assert not (scenes / "two" / ".ranks").exists() and not (scenes / "two" / ".running").exists()
    # Finished stages are only read, by as many processes as anybody likes
    assert re.search(r"(?m)^wsis: .*\(finished before\)$", finished(started(scenes, 1, "two")))


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_and_the_run_goes_on(scenes: Path) -> None:
    process = started(scenes, 2, "killed", "wsod.num_epochs=5000")
    deadline = time.monotonic() + 600
    while not any(row["event"] == "epoch" and row["label"] == "wsod" for row in _log(scenes / "killed")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    killed = time.monotonic()
    os.kill(_second_rank(process.pid), signal.SIGKILL)
    text, _ = process.communicate()
    assert process.returncode != 0 and time.monotonic() - killed < 60
    assert "found that process 1 was killed (SIGKILL): run the same command again" in text and "Traceback" not in text


def compare_photos(folder: Path) -> str:
    """What a rank says of its photos, those of the second rank being in another folder; empty where it goes on."""
    data = [f"data.train.images={folder / f'photos-{ranks().rank}'}", "data.train.tags=tags.csv"]
    run = open_run(load_settings(RunSettings, None, [*TOY_RUN, *data, f"out={folder / f'out-{ranks().rank}'}"]))
    try:
        require_same_photos(run)
    except UserError as error:
        return str(error)
    return ""


def test_ranks_with_other_photos_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tags.csv").write_text("file,tags\na.png,cat\nb.png,dog\n")
    for rank in range(2):
        for number, name in enumerate(("a.png", "b.png")):
            write_photo(tmp_path / f"photos-{rank}" / name, number, (24, 32))
    assert on_ranks(2, tmp_path / "meet", compare_photos, tmp_path) == ["", ""]
    write_photo(tmp_path / "photos-1" / "b.png", 7, (24, 32))
    for sentence in on_ranks(2, tmp_path / "meet", compare_photos, tmp_path):
        assert "wanted the same training photos and tags in all 2 processes, found others in process 1" in sentence


def _log(out: Path) -> list[dict[str, Any]]:
    return log_of(out) if (out / "log.jsonl").is_file() else []


def _second_rank(launcher: int) -> int:
    """The process of rank 1 among those that ``launcher`` and its own children started."""
    parents: dict[int, int] = {}
    seconds = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            names = (path / "environ").read_bytes().split(b"\0")
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"RANK=1" in names:
            seconds.append(int(path.name))
    for second in seconds:
        above = parents[second]
        while above in parents and above != launcher:
            above = parents[above]
        if above == launcher:
            return second
    raise AssertionError("wanted the process of rank 1, found none")
