"""Helper processes get ranks and a share of the threads, and one that fails stops nobody."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import PROCESSES
from weaksam.engine import helper_processes
from weaksam.engine.distributed import this_process
from weaksam.engine.helper_processes import helped_by

pytestmark = pytest.mark.slow


def leave_a_file(folder):
    (folder / str(this_process().rank)).write_text(f"{torch.get_num_threads()}", encoding="utf-8")


def fail(folder):
    leave_a_file(folder)
    raise RuntimeError("a helper that fails")


def sleep_long(folder):
    leave_a_file(folder)
    time.sleep(600)


def test_helpers_get_ranks_and_a_share_of_the_threads(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with helped_by(1, leave_a_file, tmp_path):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"1": "1"}


def test_a_helper_that_fails_is_only_missed(tmp_path):
    with helped_by(2, fail, tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_failing_block_stops_its_helpers(tmp_path):
    with pytest.raises(KeyError), helped_by(1, sleep_long, tmp_path):
        while not (tmp_path / "1").exists():
            time.sleep(0.05)
        raise KeyError("the block fails")  # would hang for ten minutes if the helper were waited for


def help_and_wait(folder):
    """Body of a first process that is killed."""
    with helped_by(1, sleep_in_one_call, folder):
        time.sleep(600)


def sleep_in_one_call(folder):
    """Compute without a break: Python runs nothing else meanwhile. The number of this process lies in ``folder``."""
    (folder / "new").write_text(str(os.getpid()), encoding="utf-8")
    (folder / "new").rename(folder / "pid")
    matrix = torch.randn(1500, 1500)
    torch.linalg.matrix_power(matrix, 2**62 - 1)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_process_takes_its_helpers_with_it(tmp_path):
    first = PROCESSES.Process(target=help_and_wait, args=(tmp_path,))
    first.start()
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
    helper = int((tmp_path / "pid").read_text())
    assert is_alive(helper)
    first.kill()
    first.join()
    for _ in range(600):  # would compute for an hour
        if not is_alive(helper):
            return
        time.sleep(0.05)
    pytest.fail("the helper went on")


def end_with(connection):
    helper_processes._end_after(connection.fileno())


def test_a_helper_ends_where_the_system_does_not_do_it():
    """As on a system that knows no signal at the parent's death: the end of its pipe is seen."""
    theirs, ours = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=end_with, args=(theirs,))
    process.start()
    theirs.close()
    process.join(0.2)
    assert process.is_alive()
    ours.close()
    process.join(60)
    assert process.exitcode == 1


def test_no_helper_starts_no_process(tmp_path):
    with helped_by(0, leave_a_file, tmp_path):
        pass
    assert not list(tmp_path.iterdir())
