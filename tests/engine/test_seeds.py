"""Seeds depend on their keys only; the log, the device and the progress lines say what they should."""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import pytest
import torch

from weaksam.config import UserError
from weaksam.engine.device import describe_device, pick_device
from weaksam.engine.log import RunLog
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.store.progress import Progress, clock, plain_line, progress


def test_derived_seeds():
    text = b"(3, 'a.jpg', 1)"
    assert derive_seed(3, "a.jpg", 1) == int(hashlib.sha256(text).hexdigest()[:16], 16) // 2
    keys = [(0,), (1,), (0, "a"), (0, "a", "b"), (0, "ab"), (0, 1), (0, "1"), (0, "a", 1)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_seed_everything():
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(derive_seed(1, "x"))  # larger than numpy's 32 bits
    first = draw()
    assert draw() != first
    seed_everything(derive_seed(1, "x"))
    assert draw() == first


def test_the_log_is_json_lines(tmp_path):
    log = RunLog(tmp_path / "new" / "log.jsonl")
    log.write("start", path=tmp_path, number=1)
    log.write("end")
    first, last = [json.loads(line) for line in (tmp_path / "new" / "log.jsonl").read_text().splitlines()]
    assert (first["event"], first["path"], first["number"], last["event"]) == ("start", str(tmp_path), 1, "end")
    assert first["time"].endswith("Z")
    RunLog(None).write("nowhere")


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99", "meta", "", *(["mps", "mps:0"] * (not torch.backends.mps.is_available()))):
        with pytest.raises(UserError, match="set device=auto or cpu") as caught:
            pick_device(name)
        assert "\n" not in str(caught.value)
    assert describe_device(torch.device("cpu"))["torch_threads"] == torch.get_num_threads()


def test_plain_lines():
    line = "proposals: 60/240 (25 %), 0:10 gone, 0:30 left, loss 0.5"
    assert plain_line("proposals", 60, 240, 10.0, "loss 0.5", 30.0) == line
    assert plain_line("x", 0, 9, 7.0) == "x: 0/9 (0 %), 0:07 gone"
    assert plain_line("x", 0, 0, 0.0) == "x: 0/0 (100 %), 0:00 gone"
    assert (clock(59.6), clock(3601)) == ("1:00", "1:00:01")


def test_a_short_job_prints_nothing_and_a_long_one_lines(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("weaksam.store.progress.time.monotonic", lambda: now[0])
    assert list(progress("abc", 3, "short")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    with Progress(10, "long") as shown:
        for _ in range(10):
            now[0] += 2
            shown.update()
    assert capsys.readouterr().err.splitlines() == [
        "long: 3/10 (30 %), 0:06 gone, 0:14 left",
        "long: 6/10 (60 %), 0:12 gone, 0:08 left",
        "long: 9/10 (90 %), 0:18 gone, 0:02 left",
        "long: 10/10 (100 %), 0:20 gone, 0:00 left",
    ]


def test_the_time_left_is_learned_from_the_items_after_the_first(capsys, monkeypatch):
    """The first waits for what is loaded once, and what an earlier run did says nothing."""
    now = [0.0]
    monkeypatch.setattr("weaksam.store.progress.time.monotonic", lambda: now[0])
    with Progress(100, "fit") as shown:
        shown.skip(40)
        for seconds in (30, 2, 2):
            now[0] += seconds
            shown.update()
    assert capsys.readouterr().err.splitlines() == [
        "fit: 41/100 (41 %), 0:30 gone",  # nothing is known of the pace
        "fit: 43/100 (43 %), 0:34 gone, 1:54 left",  # 57 items at two seconds each
    ]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(4, "job") as shown:
        shown._bar.delay = 0
        shown.skip(2)
        shown.update(note="loss 1")
        shown._bar.refresh()
        assert "3/4" in capsys.readouterr().err
