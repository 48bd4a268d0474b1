"""Ctrl-C and SIGTERM end a command within seconds, with one sentence and 128 + the signal, wherever they find it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import PROCESSES, ROOT
from weaksam import cli
from weaksam.cli import interrupts
from weaksam.cli.arguments import guarded
from weaksam.data.read_ahead import ReadAhead
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.store.weights import load_state, save_weights

SENTENCE = b"\ninterrupted: rerun the same command to resume\n"


def begin(marker: Path) -> None:
    """Say to the test that the command is where the signal shall find it."""
    marker.touch()


def swallow(marker: Path) -> None:
    """Code that takes the exception for an error of its own, and goes on for minutes."""
    for _ in range(600):
        try:
            begin(marker)
            time.sleep(0.1)
        except BaseException:
            continue


def turn_into_another(marker: Path) -> None:
    begin(marker)
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        raise ValueError("weights of sam_nano are not a readable safetensors file") from None


def end_well(marker: Path) -> None:
    """The signal comes in the last moment, and the command ends as if there had been none."""
    begin(marker)
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        return


def compute(marker: Path) -> None:
    """One operation of torch that takes minutes, during which Python runs no handler."""
    matrix = torch.randn(2000, 2000, dtype=torch.float64)
    begin(marker)
    torch.linalg.matrix_power(matrix, 2**62 - 1)


def read_slowly(marker: Path) -> None:
    """Threads that decode for minutes: the generator waits for them as it closes."""

    def load(number: int) -> int:
        begin(marker)
        time.sleep(600)
        return number

    list(ReadAhead(range(4), load, 2))


def train(marker: Path) -> None:
    model = torch.nn.Linear(4, 1)

    def losses(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        begin(marker)
        return {"square": model(batch).square().mean()}

    objective = Objective(losses, torch.optim.SGD(model.parameters(), lr=0.0), lambda step, total: 1.0)
    job = TrainingJob(marker.parent / "training", "f", "toy", seed=0, num_epochs=1, save_every_steps=1)
    fit(model, [objective], lambda epoch: (torch.zeros(2, 4) for _ in range(10**6)), job, num_steps_per_epoch=10**6)


def write_weights(marker: Path) -> None:
    weights = {"a": torch.zeros(2**22)}
    begin(marker)
    while True:
        save_weights(marker.parent / "weights.safetensors", weights)


def read_weights(marker: Path) -> None:
    save_weights(marker.parent / "weights.safetensors", {f"{index}": torch.zeros(2**10) for index in range(500)})
    begin(marker)
    while True:
        load_state(marker.parent / "weights.safetensors")


def import_for_long(marker: Path) -> None:
    """An import within the command: a module half made must not stay behind an exception."""
    lines = [
        "import pathlib, time",
        f"pathlib.Path({str(marker)!r}).touch()",
        "try:",
        "    time.sleep(600)",
        "except BaseException:",
        "    time.sleep(600)",
    ]
    (marker.parent / "slow_module.py").write_text("\n".join(lines))
    sys.path.insert(0, str(marker.parent))
    __import__("slow_module")


def run_command(function: Callable[[Path], None], marker: Path) -> None:
    """Body of a forked process: ``function`` as a command of its own, its streams in files beside ``marker``."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(marker.parent / name, os.O_CREAT | os.O_WRONLY), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background, where it is ignored
    interrupts.catch_signals()
    try:
        guarded(function)(marker)
    except BaseException as end:  # as typer does with its Exit
        interrupts.leave(SystemExit(getattr(end, "exit_code", 1)))


def heed_ctrl_c() -> None:
    """Give a new process the default answer to Ctrl-C, as a terminal does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "begun"


def started(function: Callable[[Path], None], marker: Path) -> Any:
    process = PROCESSES.Process(target=run_command, args=(function, marker))
    process.start()
    while process.is_alive() and not marker.exists():
        time.sleep(0.01)
    return process


COMMANDS = [
    swallow,
    turn_into_another,
    end_well,
    compute,
    read_slowly,
    train,
    write_weights,
    read_weights,
    import_for_long,
]


@pytest.mark.parametrize("function", COMMANDS, ids=lambda function: function.__name__)
def test_ctrl_c_ends_with_one_sentence_whatever_the_command_does(function, marker):
    process = started(function, marker)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert (marker.parent / "stderr").read_bytes() == SENTENCE


def test_sigterm_says_so_and_ends_with_143(marker):
    process = started(train, marker)
    process.terminate()
    process.join(60)
    assert process.exitcode == 143
    assert (marker.parent / "stderr").read_bytes() == SENTENCE.replace(b"interrupted", b"terminated")


def test_a_second_ctrl_c_ends_at_once(marker):
    process = started(swallow, marker)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert (marker.parent / "stderr").read_bytes() == SENTENCE


def test_ctrl_c_while_everything_is_imported(tmp_path):
    """A real start: the first line that tells of an import of torch is answered with a Ctrl-C."""
    command = [sys.executable, "-X", "importtime", "-m", "weaksam", "run", "configs/no_such.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, env=environment, preexec_fn=heed_ctrl_c
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith(b" torch._utils"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert b"Traceback" not in rest and rest.endswith(SENTENCE)


def test_an_ignored_ctrl_c_stays_ignored(tmp_path):
    """As of a job that a script started in the background."""
    code = "import signal; from weaksam.cli import interrupts; interrupts.catch_signals(); signal.raise_signal(2)"
    ignored = "import signal; signal.signal(2, signal.SIG_IGN); "
    assert subprocess.run([sys.executable, "-c", ignored + code], cwd=ROOT).returncode == 0
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, preexec_fn=heed_ctrl_c)
    assert (done.returncode, done.stderr) == (130, SENTENCE)


def test_the_name_of_a_command_line_that_is_not_there():
    with pytest.raises(AttributeError, match="no_such"):
        _ = cli.no_such
