"""Processes that train together: exchanges by hand, resume, and what ends all of them with one sentence."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers import PROCESSES
from tests.ranks import Trained, assert_same_training, on_ranks, trained
from weaksam.config import UserError
from weaksam.engine import distributed, rendezvous
from weaksam.engine.distributed import Launch, training_together
from weaksam.engine.training import Objective
from weaksam.models.ranks import Ranks, ranks


class Rows(NamedTuple):
    """A rank's rows of a batch and how many the whole batch has."""

    values: Tensor
    num: int
    counts: bool


def batches_of(sizes: Sequence[int]) -> list[Rows]:
    """Batches of so many rows of four numbers."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for size in sizes:
        rows = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        own, counts = ranks().share(rows)
        batches.append(Rows(own, size, counts))
    return batches


class Net(nn.Module):
    """Two layers, of which the second learns from positive rows alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 3).double(), nn.Linear(4, 2).double()


def train_net(
    folder: Path, sizes: Sequence[int], stop: Callable[[int], None] = lambda step: None, **job: Any
) -> Trained:
    """Two objectives on one network; a batch without a positive row has no loss of the second one."""
    model, steps = Net(), []

    def losses(batch: Rows) -> dict[str, Tensor]:
        steps.append(batch)
        stop(len(steps))
        return {"first": model.first(batch.values).square().sum() / batch.num}

    def of_positive(batch: Rows) -> dict[str, Tensor]:
        positive = batch.values[batch.values[:, 0] > 0]
        if len(positive) == 0:
            return {}
        return {"second": model.second(positive).square().sum() / batch.num, "positive": torch.tensor(len(positive))}

    objectives = [
        Objective(losses, torch.optim.SGD(model.first.parameters(), 0.1, momentum=0.9), lambda step, total: 1.0, 0.5),
        Objective(of_positive, torch.optim.AdamW(model.second.parameters(), 0.1), lambda step, total: 1.0),
    ]
    return trained(folder, model, objectives, lambda epoch: batches_of(sizes), len(sizes), **job)


SIZES = (5, 1, 4, 2, 1, 3)


def exchanges() -> dict[str, Any]:
    """What every exchange gives a rank."""
    group = ranks()
    own = torch.arange(group.rank + 1) + 10 * group.rank  # 0; 10, 11; 20, 21, 22
    rows, begin = group.concatenated(own)
    with group.counting(group.rank != 1):
        skipped, at_end = group.concatenated(own)
        total = group.total(5)
        summed = group.sum(torch.tensor([1.0, group.rank]))
    value = torch.tensor(float(group.rank), requires_grad=True)
    (group.sum_with_gradient(value * value) * (group.rank + 1)).backward()
    return {
        "rows": rows[begin : begin + len(own)].tolist() == own.tolist() and rows.tolist(),
        "skipped": skipped[at_end : at_end + len(own)].tolist() == own.tolist() and skipped[:4].tolist(),
        "flags": group.concatenated(own > 10)[0].tolist(),
        "total": total,
        "sum": summed.tolist(),
        "largest": group.largest(-group.rank),
        "gradient": value.grad.item(),
        "first": group.from_first(f"of {group.rank}"),
        "shares": [group.share(list(range(num))) for num in (0, 1, 2, 4)],
    }


def test_exchanges_by_hand(tmp_path: Path) -> None:
    results = on_ranks(3, tmp_path, exchanges)
    for rank, result in enumerate(results):
        assert result["rows"] == [0, 10, 11, 20, 21, 22]
        assert result["skipped"] == [0, 20, 21, 22]  # without those of rank 1, which finds its own behind them
        assert result["flags"] == [False, False, True, True, True, True]
        assert result["total"] == 10 and result["sum"] == [2.0, 2.0]
        assert result["largest"] == 0 and result["first"] == "of 0"
        assert result["gradient"] == 2 * rank * (1 + 2 + 3)  # of the losses of all ranks
    shares = [result["shares"] for result in results]
    assert [of_rank[0] for of_rank in shares] == [([], True)] * 3
    assert [of_rank[1] for of_rank in shares] == [([0], False), ([0], False), ([0], True)]
    assert [of_rank[2] for of_rank in shares] == [([0], False), ([0], True), ([1], True)]
    assert [of_rank[3] for of_rank in shares] == [([0], True), ([1], True), ([2, 3], True)]
    assert not list(tmp_path.iterdir())


def meet_within(out: Path) -> tuple[bool, int]:
    """Whether a block within a block has the same group, and what that exchanges after it."""
    group = ranks()
    with training_together(
        Launch("torchrun", group.rank, group.size, group.rank), out / "within", "settings"
    ) as within:
        same = within is group
    return same, group.total(1)


def test_processes_that_train_together_go_on_so_in_a_block_within(tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path, meet_within, tmp_path) == [(True, 2)] * 2
    assert not (tmp_path / "within").exists()


def test_alone_nothing_is_exchanged() -> None:
    group = Ranks()
    values = torch.tensor([1.0, 2.0])
    assert group.first and group.total(3) == group.largest(3) == 3 and group.share([4, 5]) == ([4, 5], True)
    assert group.sum(values) is group.sum_with_gradient(values) is group.concatenated(values)[0] is values
    assert group.from_first("x") == "x" and group.of_all("x") == ["x"]
    with training_together(Launch("workers", 1, 1, 1), Path("nowhere"), "f") as same:
        assert same.size == 1


def test_objectives_on_three_ranks(tmp_path: Path) -> None:
    alone = train_net(tmp_path / "alone", SIZES)
    for result in on_ranks(3, tmp_path, train_net, tmp_path / "three", SIZES):
        assert_same_training(alone, result, 1e-12)
    assert len(alone.gradients) < 2 * len(SIZES)  # some batches have no positive row


def stopped(step: int) -> None:
    if step == 5:
        raise KeyboardInterrupt


def train_broken(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_net(folder, SIZES, stopped, save_every_steps=2)


def test_resume_on_as_many_ranks_to_the_byte_and_on_others_to_the_digits(tmp_path: Path) -> None:
    for folder in ("whole", "alike", "fewer"):
        if folder != "whole":
            on_ranks(2, tmp_path, train_broken, tmp_path / folder)
        on_ranks(1 if folder == "fewer" else 2, tmp_path, train_net, tmp_path / folder, SIZES)
    whole, alike, fewer = (
        (tmp_path / folder / "weights.safetensors").read_bytes() for folder in ("whole", "alike", "fewer")
    )
    assert whole == alike
    np.testing.assert_allclose(np.frombuffer(whole[-64:]), np.frombuffer(fewer[-64:]), rtol=1e-9)


# What ends all processes


def meet(rank: int, size: int, out: Path, settings: str, sender: Any, work: Callable[[int], None]) -> None:
    """A process that trains along, and says how it ended and after how many seconds."""
    torch.set_num_threads(1)
    rendezvous.MEET_SECONDS = 3.0
    began = time.monotonic()
    try:
        with training_together(Launch("torchrun", rank, size, rank), out, settings, timeout=60, job="test"):
            work(rank)
        sender.send(("done", "", time.monotonic() - began))
    except UserError as error:
        sender.send(("error", str(error), time.monotonic() - began))
    except SystemExit as end:
        sender.send(("silent", str(end.code), time.monotonic() - began))


def ends(outs: Sequence[Path], settings: Sequence[str], work: Callable[[int], None]) -> list[tuple[str, str, float]]:
    """How each process ended; one that was killed says nothing."""
    pipes = [PROCESSES.Pipe(duplex=False) for _ in outs]
    processes = []
    for rank, (out, fingerprint, (_, sender)) in enumerate(zip(outs, settings, pipes, strict=True)):
        arguments = (rank, len(outs), out, fingerprint, sender, work)
        processes.append(PROCESSES.Process(target=meet, args=arguments, daemon=True))
        processes[-1].start()
        sender.close()
    results = []
    for receiver, _ in pipes:
        try:
            assert receiver.poll(120)
            results.append(receiver.recv())
        except EOFError:
            results.append(("killed", "", 0.0))
    for process in processes:
        process.join(60)
    return results


def die_as_one(rank: int) -> None:
    """Process 1 is killed in its third exchange; the others go on exchanging."""
    for step in range(200):
        if rank == 1 and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks().sum(torch.ones(1000))


def test_a_process_that_dies_ends_all_with_one_sentence(tmp_path: Path) -> None:
    results = ends([tmp_path] * 3, ["f"] * 3, die_as_one)
    assert sorted(kind for kind, _, _ in results) == ["error", "killed", "silent"]
    (sentence,) = (text for kind, text, _ in results if kind == "error")
    assert "found that process 1 (pid" in sentence and "died: run the same command again" in sentence
    assert all(seconds < 60 for _, _, seconds in results)


def fail_everywhere(rank: int) -> None:
    raise UserError("wanted a finite loss, found nan")


def test_what_fails_in_all_processes_is_said_once(tmp_path: Path) -> None:
    results = ends([tmp_path] * 3, ["f"] * 3, fail_everywhere)
    assert sorted(kind for kind, _, _ in results) == ["error", "silent", "silent"]


def nothing(rank: int) -> None:
    pass


def test_other_settings_are_refused(tmp_path: Path) -> None:
    results = ends([tmp_path] * 2, ["f", "g"], nothing)
    assert sorted(kind for kind, _, _ in results) == ["error", "silent"]
    (sentence,) = (text for kind, text, _ in results if kind == "error")
    assert "wanted the same settings in all processes, found others in process 1" in sentence


def test_an_output_folder_that_is_not_shared_is_named(tmp_path: Path) -> None:
    results = ends([tmp_path / "a", tmp_path / "b"], ["f"] * 2, nothing)
    assert [kind for kind, _, _ in results] == ["error", "error"]
    assert "wanted 2 processes, found 1 that met in 3 s" in results[0][1]
    assert all("out=DIR on a disk that all machines share" in text for _, text, _ in results)


def test_other_code_is_told_from_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distributed.code_fingerprint.cache_clear()
    before = distributed.code_fingerprint()
    (tmp_path / "changed.py").write_text("x = 1\n")
    monkeypatch.setattr(distributed.weaksam, "__file__", str(tmp_path / "__init__.py"))
    distributed.code_fingerprint.cache_clear()
    assert distributed.code_fingerprint() != before
    distributed.code_fingerprint.cache_clear()


def test_the_name_of_a_job_is_that_of_its_start() -> None:
    assert distributed.job_name({}) == "job"
    assert distributed.job_name({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2"}) == "7-2"
    assert distributed.job_name({"TORCHELASTIC_RUN_ID": "a/../b", "MASTER_PORT": "1"}) == "a-b-1"
