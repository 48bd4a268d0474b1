"""Training resumes bit for bit, seals its weights, and names the photos of a loss that is not finite."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers import DAMAGED_JSON, PROCESSES, training_history
from weaksam.config import UserError
from weaksam.engine.log import RunLog
from weaksam.engine.loss_values import LossValues
from weaksam.engine.schedules import warmup_cosine, warmup_steps
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.training_state import TrainingProgress
from weaksam.store.weights import load_state, read_metadata, save_weights

NUM_EPOCHS, NUM_STEPS = 3, 4


@dataclass
class Batch:
    image_ids: list[str]
    inputs: torch.Tensor


def make_model() -> nn.Module:
    """Dropout draws random numbers and batch-norm keeps buffers: both must survive a resume."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


def train(
    folder: Path,
    kill_at: tuple[int, int] | None = None,
    optimizer: str = "adam",
    *,
    fingerprint: str = "f" * 64,
    losses: Callable[[Batch], dict[str, torch.Tensor]] | None = None,
    on_epoch_end: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train for 3 epochs of 4 steps; ``kill_at`` = (epoch, step) kills the process there, as ``kill -9`` does."""
    model = make_model()
    if optimizer == "adam":
        chosen: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    else:
        chosen = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def batches(epoch: int):
        for step in range(NUM_STEPS):
            if (epoch, step) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield Batch([f"{epoch}-{step}.jpg"], torch.randn(6, 5))

    def two_losses(batch: Batch) -> dict[str, torch.Tensor]:
        out = model(batch.inputs)
        return {"square": (out**2).mean(), "pull": (out - 1).abs().mean()}

    objective = Objective(losses or two_losses, chosen, partial(warmup_cosine, warmup=2), clip_norm=1.0)
    job = TrainingJob(folder, fingerprint, "toy", seed=3, num_epochs=NUM_EPOCHS)
    fit(model, [objective], batches, job, num_steps_per_epoch=NUM_STEPS, on_epoch_end=on_epoch_end)
    return model


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("optimizer", "kill_at"), [("adam", (1, 2)), ("sgd", (2, 0))])
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path, optimizer, kill_at):
    train(tmp_path / "unbroken", optimizer=optimizer)
    killed = PROCESSES.Process(target=train, args=(tmp_path / "killed", kill_at, optimizer))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    train(tmp_path / "killed", optimizer=optimizer)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


def test_the_bytes_of_a_killed_training_lie_between_epochs(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        train(tmp_path, on_epoch_end=stop_at(1))
    assert set(files_of(tmp_path)) == {"state.safetensors"}  # epoch 0 only, nothing half-written beside it


def stop_at(last: int):
    def stop(epoch: int) -> None:
        if epoch == last:
            raise RuntimeError("stop")

    return stop


def test_a_finished_training_is_loaded_and_not_run_again(tmp_path):
    trained = train(tmp_path).state_dict()
    before = files_of(tmp_path)
    assert set(before) == {"weights.safetensors", "manifest.json"}
    again = train(tmp_path, kill_at=(0, 0)).state_dict()  # a batch drawn would kill the tests
    assert all(torch.equal(again[name], trained[name]) for name in trained)
    assert files_of(tmp_path) == before


def test_every_epoch_draws_its_own_random_numbers(tmp_path):
    drawn: list[float] = []

    def losses(batch: Batch) -> dict[str, torch.Tensor]:
        drawn.append(float(batch.inputs[0, 0]))
        return {}

    train(tmp_path, losses=losses)
    assert len(set(drawn)) == NUM_EPOCHS * NUM_STEPS


def test_sgd_by_hand(tmp_path):
    """Loss w^2 / 2 from w = 1, rate 0.5 then 0.25: w = 1 - 0.5 = 0.5, then 0.5 - 0.25 * 0.5 = 0.375."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    objective = Objective(
        lambda _: {"a": model.weight.square().sum() / 4, "b": model.weight.square().sum() / 4},
        torch.optim.SGD(model.parameters(), lr=1.0),
        lambda step, total: 1 / (total + 2 * step),  # 1/2, then 1/4
    )
    log = RunLog(tmp_path / "log.jsonl")
    job = TrainingJob(tmp_path / "weights", "f", "toy", seed=0, num_epochs=2, log=log)
    fit(model, [objective], lambda _: ["x.jpg"], job, num_steps_per_epoch=1)
    assert model.weight.item() == 0.375
    assert training_history(tmp_path / "weights") == [{"a": 0.25, "b": 0.25}, {"a": 0.0625, "b": 0.0625}]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line["epoch"]) for line in lines] == [("epoch", 1), ("epoch", 2)]


def test_figures_are_reported_and_not_trained_on(tmp_path):
    """Loss w^2 / 2 beside a figure of 7: w = 1 - 0.5 = 0.5 as without it; ``begin_step`` comes before the losses."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    begun: list[tuple[int, int]] = []
    objective = Objective(
        lambda _: {"a": model.weight.square().sum() / 2, "steps": torch.tensor(7.0 + len(begun))},
        torch.optim.SGD(model.parameters(), lr=0.5),
        lambda step, total: 1.0,
        begin_step=lambda step, total: begun.append((step, total)),
    )
    job = TrainingJob(tmp_path / "weights", "f", "toy", seed=0, num_epochs=1)
    fit(model, [objective], lambda _: ["x.jpg"], job, num_steps_per_epoch=1)
    assert model.weight.item() == 0.5
    assert begun == [(0, 1)]
    assert training_history(tmp_path / "weights") == [{"a": 0.5, "steps": 8.0}]


def test_the_loss_shown_leaves_figures_out(tmp_path):
    values = LossValues(TrainingProgress(), "toy", 1)
    losses = {"a": torch.tensor(0.5), "b": torch.tensor(0.25), "count": torch.tensor(9.0)}
    values.add(losses, None, "x.jpg", step=0, objective=0, figures=frozenset({"count"}))
    values.fetch()
    assert values.note == "loss 0.75"
    assert values.progress.sums == {"a": 0.5, "b": 0.25, "count": 9.0}


def test_a_loss_that_is_nan_names_its_images(tmp_path):
    def losses(batch: Batch) -> dict[str, torch.Tensor]:
        return {"good": torch.ones((), requires_grad=True), "bad": torch.full((), math.nan)}

    with pytest.raises(UserError, match=r"toy, step 1 of 12: wanted a finite bad, found nan on the images 0-0\.jpg:"):
        train(tmp_path, losses=losses)


def test_a_gradient_that_is_infinite_names_its_images(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    objective = Objective(
        lambda _: {"root": model.weight.sqrt().sum()},  # 0, with an infinite slope
        torch.optim.SGD(model.parameters(), lr=1.0),
        lambda step, total: 1.0,
        clip_norm=1.0,
    )
    batch = [{"image_id": "a.jpg"}, {"image_id": "b.jpg"}]
    with pytest.raises(UserError, match=r"finite gradient norm, found inf on the images a\.jpg, b\.jpg:"):
        fit(
            model, [objective], lambda _: [batch], TrainingJob(tmp_path, "f", "toy", 0, num_epochs=1),
            num_steps_per_epoch=1,
        )  # fmt: skip


def test_a_training_without_a_length_is_a_mistake_of_the_caller(tmp_path):
    model = make_model()
    objective = Objective(lambda _: {}, torch.optim.SGD(model.parameters(), lr=1.0), lambda step, total: 1.0)
    with pytest.raises(AssertionError, match="wanted num_epochs or num_steps, found neither"):
        fit(model, [objective], lambda _: [], TrainingJob(tmp_path, "f", "toy", 0), num_steps_per_epoch=1)


def test_other_settings_and_damaged_weights_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        train(tmp_path, on_epoch_end=stop_at(1))
    with pytest.raises(UserError, match="trained with other settings"):  # half trained
        train(tmp_path, fingerprint="0" * 64)
    train(tmp_path)
    with pytest.raises(UserError, match="trained with other settings"):  # sealed
        train(tmp_path, fingerprint="0" * 64)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="damaged"):
        train(tmp_path)


@pytest.mark.parametrize("name", DAMAGED_JSON)
def test_a_damaged_manifest_of_trained_weights_is_one_sentence(tmp_path, name):
    train(tmp_path)
    (tmp_path / "manifest.json").write_bytes(DAMAGED_JSON[name])
    with pytest.raises(UserError, match=r"wanted the manifest of .*found a damaged file: delete .* and rerun"):
        train(tmp_path)


def test_a_damaged_state_is_one_sentence(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        train(tmp_path, on_epoch_end=stop_at(1))
    state = tmp_path / "state.safetensors"
    whole, metadata = state.read_bytes(), read_metadata(state)
    tensors = load_state(state)
    damages = [
        {**metadata, "history": 3},
        {"fingerprint": metadata["fingerprint"]},
        {**metadata, "epoch": {"steps": 1}},
    ]
    said = r"found state\.safetensors damaged since it was saved: delete it and rerun, which begins this training again"
    for damage in damages:
        save_weights(state, tensors, damage)
        with pytest.raises(UserError, match=said):
            train(tmp_path)
    for content in (b"", whole[:100], whole[:-5], b"<html>"):
        state.write_bytes(content)
        with pytest.raises(UserError, match=said):
            train(tmp_path)


def test_warmup_cosine_by_hand():
    # Two warm-up steps rise by thirds; then half a cosine over the 4 steps left: cos 0, 45, 90, 135 degrees.
    wanted = [1 / 3, 2 / 3, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert [warmup_cosine(step, 6, warmup=2) for step in range(6)] == pytest.approx(wanted)
    assert warmup_cosine(0, 1) == 1.0


def test_warmup_steps_by_hand():
    factors = [warmup_steps(step, 10, warmup=1, milestones=(0.5, 0.8)) for step in (0, 1, 4, 5, 8)]
    assert factors == pytest.approx([0.5, 1, 1, 0.1, 0.01])
