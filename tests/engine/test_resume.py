"""A training killed at any step goes on to the bytes of an unbroken one, and its state is whole or absent."""

from __future__ import annotations

import contextlib
import copy
import random
import resource
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from tests.helpers import flip, training_history
from weaksam.config import UserError
from weaksam.engine import loss_values
from weaksam.engine.schedules import warmup_cosine
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.training_state import RandomState
from weaksam.store.weights import load_state, read_metadata

NUM_EPOCHS, NUM_STEPS = 3, 4


def drawn_batch(name: str) -> tuple[str, torch.Tensor]:
    """A batch that follows from all three global sources of random numbers, as it is produced."""
    return name, torch.randn(6, 5) + random.gauss(0, 1) + float(np.random.randn())


def one_by_one(epoch: int):
    """Batches whose order is drawn before the first, and whose content is drawn with each."""
    for index in torch.randperm(NUM_STEPS).tolist():
        yield drawn_batch(f"{epoch}-{index}.jpg")


def as_list(epoch: int) -> list:
    return list(one_by_one(epoch))


class OnDemand(Sequence):
    """Batches made as they are asked for, with a note of which."""

    def __init__(self, epoch: int, asked: list[str]) -> None:
        self.names, self.asked = [f"{epoch}-{index}.jpg" for index in torch.randperm(NUM_STEPS).tolist()], asked

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            rest = copy.copy(self)
            rest.names = self.names[index]
            return rest
        self.asked.append(self.names[index])
        return drawn_batch(self.names[index])


class Killed(Exception):
    """What stops a training here."""


def train(folder: Path, kill_at: int | None = None, batches=one_by_one, nan_at: int | None = None, **of_job):
    """Train with dropout, batch-norm and Adam; ``kill_at`` counts the calls of the losses. The names it saw."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    seen: list[str] = []

    def losses(batch: tuple[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if len(seen) == kill_at:
            raise Killed
        seen.append(batch[0])
        out = model(batch[1]) + random.random() + (float("nan") if len(seen) - 1 == nan_at else 0)
        return {"square": out.square().mean(), "pull": (out - 1).abs().mean()}

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    objective = Objective(losses, optimizer, partial(warmup_cosine, warmup=2), clip_norm=1.0)
    job = TrainingJob(folder, "f" * 64, "toy", seed=3, **{"num_epochs": NUM_EPOCHS, **of_job})
    with contextlib.suppress(Killed):
        fit(model, [objective], batches, job, num_steps_per_epoch=NUM_STEPS)
    return seen


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("batches", "save_every_steps"), [(one_by_one, 1), (as_list, 3)])
def test_killed_at_any_step_the_bytes_are_those_of_an_unbroken_training(tmp_path, batches, save_every_steps):
    train(tmp_path / "unbroken", batches=batches)
    for kill_at in range(1, NUM_EPOCHS * NUM_STEPS):
        killed = train(tmp_path / f"{kill_at}", kill_at, batches, save_every_steps=save_every_steps)
        resumed = train(tmp_path / f"{kill_at}", batches=batches, save_every_steps=save_every_steps)
        in_epoch = kill_at % NUM_STEPS
        lost = in_epoch % save_every_steps
        assert len(killed) == kill_at and len(resumed) == NUM_EPOCHS * NUM_STEPS - kill_at + lost
        assert files_of(tmp_path / f"{kill_at}") == files_of(tmp_path / "unbroken")


def test_a_training_killed_again_and_again_ends_the_same(tmp_path):
    train(tmp_path / "unbroken")
    seen = [train(tmp_path / "killed", kill_at=2, save_every_steps=1) for _ in range(7)]
    assert [len(names) for names in seen] == [2, 2, 2, 2, 2, 2, 0]  # two steps a call; the seventh finds it finished
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


def test_a_sequence_is_not_asked_for_the_batches_that_were_done(tmp_path):
    asked: list[str] = []
    batches = partial(OnDemand, asked=asked)
    whole = train(tmp_path / "unbroken", batches=batches)
    train(tmp_path / "killed", 6, batches, save_every_steps=1)
    asked.clear()
    assert train(tmp_path / "killed", batches=batches) == whole[6:] == asked
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


@pytest.mark.parametrize(("every", "steps"), [(0.0, 2), (3600.0, None), (None, None)])
def test_seconds_decide_about_a_save_within_an_epoch(tmp_path, every, steps):
    train(tmp_path, NUM_STEPS + 2, save_every_seconds=every)
    begun = read_metadata(tmp_path / "state.safetensors").get("epoch")
    assert (begun and begun["steps"]) == steps


def test_the_state_between_epochs_is_the_one_that_older_versions_wrote_and_read(tmp_path):
    train(tmp_path / "unbroken")
    train(tmp_path / "killed", NUM_STEPS, save_every_steps=1)
    path = tmp_path / "killed" / "state.safetensors"
    assert set(read_metadata(path)) == {"fingerprint", "history", "optimizer"}
    assert {name.split(".")[0] for name in load_state(path)} == {"model", "optimizer"}
    assert len(train(tmp_path / "killed")) == (NUM_EPOCHS - 1) * NUM_STEPS
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


def test_a_state_that_cannot_be_written_whole_leaves_the_one_before(tmp_path):
    train(tmp_path / "unbroken")
    train(tmp_path / "cut", 2, save_every_steps=1)
    path = tmp_path / "cut" / "state.safetensors"
    before, states = path.read_bytes(), files_of(tmp_path / "cut")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # the disk is full half-way through
    try:
        with pytest.raises((UserError, SafetensorError)):
            train(tmp_path / "cut", save_every_steps=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_of(tmp_path / "cut") == states
    train(tmp_path / "cut")
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "unbroken")


def test_a_damaged_state_is_given_up_for_the_one_before(tmp_path, capsys):
    whole = train(tmp_path / "unbroken")
    train(tmp_path / "killed", 6, save_every_steps=1)
    assert set(files_of(tmp_path / "killed")) == {"state.safetensors", "state-before.safetensors"}
    flip(tmp_path / "killed" / "state.safetensors", -40, 6)  # among the numbers of the last tensor
    assert train(tmp_path / "killed", 1, save_every_steps=1) == whole[5:6]  # after the fifth step, not the sixth
    note = "state.safetensors was damaged since it was saved and is removed; the training goes on from the state before"
    assert note in capsys.readouterr().err
    train(tmp_path / "killed")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


@pytest.mark.slow
def test_no_flipped_bit_of_a_state_is_trained_on(tmp_path):
    train(tmp_path, 6, save_every_steps=1)
    state = tmp_path / "state.safetensors"
    (tmp_path / "state-before.safetensors").unlink()
    whole, tensors = state.read_bytes(), load_state(state)
    metadata, draw = read_metadata(state), random.Random(0)
    num_header = 8 + int.from_bytes(whole[:8], "little")
    positions = [*range(num_header), *draw.sample(range(num_header, len(whole)), 300)]
    for position in positions:
        flip(state, position, draw.randrange(8))
        try:
            same = load_state(state), read_metadata(state)
        except (ValueError, SafetensorError):
            same = None
        if same is not None:  # blanks in the header, or the name of an entry that then says nothing
            assert all(torch.equal(same[0][name], value) for name, value in tensors.items())
            assert same[1].get("fingerprint") in (None, metadata["fingerprint"])
        state.write_bytes(whole)


def test_both_states_damaged_are_named_together(tmp_path):
    train(tmp_path, 6, save_every_steps=1)
    for path in tmp_path.iterdir():
        flip(path, -40)
    both = "found state.safetensors and state-before.safetensors damaged since it was saved: delete both and rerun"
    with pytest.raises(UserError, match=both):
        train(tmp_path)


def test_a_kill_between_the_two_renames_goes_on_from_the_state_before(tmp_path, capsys):
    train(tmp_path / "unbroken")
    train(tmp_path / "killed", 6, save_every_steps=1)
    (tmp_path / "killed" / "state.safetensors").unlink()
    train(tmp_path / "killed")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken") and not capsys.readouterr().err


def test_random_numbers_go_on_where_they_were():
    def draw() -> tuple[float, ...]:
        return random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), float(torch.randn(()))

    draw()  # both Python and numpy now hold back the second of a pair of normal numbers
    state = RandomState.now()
    first = draw()
    assert draw() != first
    state.restore()
    assert draw() == first


def test_a_number_of_steps_ends_within_an_epoch(tmp_path):
    """Ten steps of four an epoch: epochs of 4, 4 and 2, each with the mean over its own steps."""
    model = nn.Linear(1, 1, bias=False)
    totals, drawn, ends = set(), [], []

    def batches(epoch: int):
        for index in range(NUM_STEPS):
            drawn.append(4 * epoch + index)
            yield torch.tensor([4.0 * epoch + index])

    def lr_factor(step: int, total: int) -> float:
        totals.add(total)
        return 0.0

    def losses(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": batch.sum() + 0 * model.weight.sum()}

    objective = Objective(losses, torch.optim.SGD(model.parameters(), lr=1.0), lr_factor)
    job = TrainingJob(tmp_path, "f", "toy", seed=0, num_steps=10, num_epochs=99)
    fit(model, [objective], batches, job, num_steps_per_epoch=NUM_STEPS, on_epoch_end=ends.append)
    assert training_history(tmp_path) == [{"a": 1.5}, {"a": 5.5}, {"a": 8.5}]  # 0..3, 4..7, 8 and 9
    assert (totals, drawn, ends) == ({10}, list(range(10)), [0, 1, 2])


@pytest.mark.parametrize("kill_at", [3, 8, 9])
def test_a_number_of_steps_resumes_too(tmp_path, kill_at):
    train(tmp_path / "unbroken", num_steps=10)
    train(tmp_path / "killed", kill_at, num_steps=10, save_every_steps=1)
    assert len(train(tmp_path / "killed", num_steps=10)) == 10 - kill_at
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


def test_losses_fetched_together_are_those_fetched_at_once(tmp_path, monkeypatch):
    train(tmp_path / "at once")
    monkeypatch.setattr(
        loss_values, "_steps_together", lambda device: 3
    )  # as on an accelerator, of which the CPU is none
    train(tmp_path / "together", 6, save_every_steps=2)
    train(tmp_path / "together")
    assert files_of(tmp_path / "together") == files_of(tmp_path / "at once")


@pytest.mark.parametrize("save_every_steps", [2, 3])
def test_a_loss_fetched_late_names_its_own_images_and_is_never_saved(tmp_path, monkeypatch, save_every_steps):
    """The step after next finds that step 5 was NaN; a save after step 6 would have kept its weights."""
    names = train(tmp_path / "unbroken", save_every_steps=1)
    monkeypatch.setattr(loss_values, "_steps_together", lambda device: 20)
    with pytest.raises(UserError, match=f"step 5 of 12: wanted a finite square, found nan on the images {names[4]}:"):
        train(tmp_path / "nan", nan_at=4, save_every_steps=save_every_steps)
    assert "epoch" not in read_metadata(tmp_path / "nan" / "state.safetensors")
    assert all(bool(value.isfinite().all()) for value in load_state(tmp_path / "nan" / "state.safetensors").values())
