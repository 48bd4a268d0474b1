"""Ranks count under an explicit launcher alone, and a job of another size than was asked for is refused."""

import pytest

from weaksam.config import UserError
from weaksam.engine.distributed import Launch, own_device, this_process, unused_rank

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
TASK = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "0"}
SLURM = {**TASK, "WEAKSAM_SLURM": "1"}


def test_a_process_alone_is_the_first_of_one():
    assert this_process({}) == Launch("none", 0, 1, None)
    assert not this_process({}).together
    assert unused_rank({}) == ""


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        (TORCHRUN, Launch("torchrun", 5, 8, 1)),
        ({**TORCHRUN, "WEAKSAM_PROCESSES": "8"}, Launch("torchrun", 5, 8, 1)),
        (SLURM, Launch("slurm", 2, 3, 0)),
        ({**SLURM, "WEAKSAM_PROCESSES": "3"}, Launch("slurm", 2, 3, 0)),
        ({"WEAKSAM_HELPER": "3"}, Launch("workers", 3, 1, 3)),
        ({**TORCHRUN, "WEAKSAM_HELPER": "1"}, Launch("workers", 1, 1, 1)),
    ],
)
def test_ranks_are_those_of_the_launcher(environment, launch):
    assert this_process(environment) == launch
    assert launch.together
    assert unused_rank(environment) == ""


@pytest.mark.parametrize("environment", [{"RANK": "2", "WORLD_SIZE": "4"}, TASK])
def test_a_rank_that_no_launcher_set_does_not_count_and_is_named(environment):
    assert this_process(environment) == Launch()
    name = next(iter(environment))
    assert f"{name}=2" in unused_rank(environment)
    assert "runs on its own" in unused_rank(environment)


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "0", "WORLD_SIZE": "1"}, {"RANK": "1"}, {"WORLD_SIZE": "4"}, {"SLURM_PROCID": "0"}],
)
def test_variables_of_a_job_of_one_are_no_news(environment):
    assert this_process(environment) == Launch()
    assert unused_rank(environment) == ""


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM])
def test_another_number_of_processes_than_asked_for_is_refused(environment):
    with pytest.raises(UserError, match=r"wanted 4 processes, found [83] that (torchrun|slurm) started together"):
        this_process({**environment, "WEAKSAM_PROCESSES": "4"})


@pytest.mark.parametrize(("environment", "name"), [(TORCHRUN, "LOCAL_RANK"), (SLURM, "SLURM_LOCALID")])
@pytest.mark.parametrize("text", ["", "-1", "one"])
def test_a_variable_that_is_no_number_is_named(environment, name, text):
    with pytest.raises(UserError, match=rf"environment's {name}, .* found '{text}'"):
        this_process({**environment, name: text})


def test_the_gpus_of_a_machine_are_shared_in_turn(monkeypatch):
    assert own_device("auto", Launch()) == "auto"
    assert own_device("cpu", Launch("torchrun", 5, 8, 1)) == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    devices = [own_device("auto", this_process({"WEAKSAM_HELPER": str(rank)})) for rank in (1, 2, 3, 4)]
    assert devices == ["cuda:1", "cuda:2", "cuda:3", "cuda:0"]
    assert own_device("auto", Launch()) == "auto"
    assert own_device("cuda:2", Launch("slurm", 2, 3, 0)) == "cuda:2"
    assert own_device("auto", Launch("slurm", 7, 8, 3)) == "cuda:3"
    with pytest.raises(UserError, match="found process 5 of a machine that has 4: start as many processes a machine"):
        own_device("auto", Launch("slurm", 4, 8, 4))
