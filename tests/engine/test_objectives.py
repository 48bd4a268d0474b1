"""Parts of a batch add up to one step, and several objectives each take their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import training_history
from weaksam.config import UserError
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob


class Players(nn.Module):
    """Two numbers, each moved by its own optimizer."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(first)), nn.Parameter(torch.tensor(second))


def constant(step: int, total: int) -> float:
    return 1.0


def two_names(epoch: int) -> list[str]:
    return ["0.jpg", "1.jpg"]


def train(model: nn.Module, objectives: Sequence[Objective], folder: Path, batches=two_names, **of_job) -> None:
    """Two steps an epoch, of one epoch where ``of_job`` does not say otherwise."""
    job = TrainingJob(folder, "f", "toy", seed=0, **{"num_epochs": 1, **of_job})
    fit(model, objectives, batches, job, num_steps_per_epoch=2)


def sgd(parameter: nn.Parameter, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([parameter], lr=lr)


def test_two_players_by_hand(tmp_path):
    """The first minimises a b over a (rate 1/2), the second (b - a)^2 / 2 over b (rate 1/4, then 1/8).

    From a = 1, b = 2: a = 1 - 2 / 2 = 0, b = 2 - (2 - 0) / 4 = 1.5; a = 0 - 1.5 / 2 = -0.75, b = 1.5 - 2.25 / 8.
    """
    model = Players(1.0, 2.0)
    second = Objective(
        lambda batch: {"gap": (model.b - model.a).square() / 2}, sgd(model.b, 0.25), lambda step, total: 1 / (step + 1)
    )
    first = Objective(lambda batch: {"product": model.a * model.b}, sgd(model.a, 0.5), constant)
    train(model, [first, second], tmp_path)
    assert (model.a.item(), model.b.item()) == (-0.75, 1.5 - 0.28125)
    assert model.a.grad is None and model.b.grad is not None  # the last step did not even compute what it left alone
    assert training_history(tmp_path) == [{"product": (2 + 0) / 2, "gap": (2 + 2.25**2 / 2) / 2}]


def test_the_gradient_of_one_objective_is_not_counted_in_the_norm_of_another(tmp_path):
    """Of 3 a + 4 b only a is cut, from 3 to 1: with b in the norm it would be 3 / 5. The second is cut from 4 to 2."""
    model = Players(0.0, 0.0)

    def loss(name: str):
        return lambda batch: {name: 3 * model.a + 4 * model.b}

    first = Objective(loss("first"), sgd(model.a, 1.0), constant, clip_norm=1.0)
    second = Objective(loss("second"), sgd(model.b, 1.0), constant, clip_norm=2.0)
    train(model, [first, second], tmp_path)
    assert (model.a.item(), model.b.item()) == pytest.approx((-2.0, -4.0), rel=1e-5)


def test_an_objective_without_losses_takes_no_step(tmp_path):
    model = Players(1.0, 1.0)
    first = Objective(lambda batch: {"a": model.a} if batch == "0.jpg" else {}, sgd(model.a, 0.5), constant)
    second = Objective(lambda batch: {"b": model.b} if batch == "1.jpg" else {}, sgd(model.b, 0.25), constant)
    train(model, [first, second], tmp_path)
    assert (model.a.item(), model.b.item()) == (0.5, 0.75)
    assert training_history(tmp_path) == [{"a": 0.5, "b": 0.5}]


def test_a_later_objective_that_is_not_finite_names_its_images(tmp_path):
    model = Players(1.0, 1.0)
    first = Objective(lambda batch: {"a": model.a}, sgd(model.a, 0.5), constant)
    second = Objective(lambda batch: {"log": model.b.log()}, sgd(model.b, 1.0), constant)  # b = 1, then 0
    with pytest.raises(UserError, match=r"step 2 of 2: wanted a finite log, found -inf on the images 1\.jpg:"):
        train(model, [first, second], tmp_path)


def test_losses_of_one_name_and_foreign_parameters_are_mistakes_of_the_caller(tmp_path):
    model, other = Players(1.0, 1.0), Players(1.0, 1.0)
    first = Objective(lambda batch: {"a": model.a}, sgd(model.a, 0.5), constant)
    same_name = Objective(lambda batch: {"a": model.b}, sgd(model.b, 1.0), constant)
    foreign = Objective(lambda batch: {"a": other.a}, sgd(other.a, 0.5), constant)
    with pytest.raises(AssertionError, match="two objectives have a loss named a"):
        train(model, [first, same_name], tmp_path)
    with pytest.raises(AssertionError, match="not the model's"):
        train(model, [foreign], tmp_path)


def adversaries(folder: Path, kill_at: int | None = None) -> None:
    """A network, and noise on its input that its own Adam drives to make the network's loss larger."""
    torch.manual_seed(1)
    model = nn.ModuleDict({"net": nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3)), "noise": nn.Linear(4, 4)})
    calls: list[int] = []

    def loss(batch: Tensor) -> Tensor:
        if len(calls) == kill_at:
            raise KeyboardInterrupt
        calls.append(1)
        return model["net"](batch + model["noise"](batch)).square().mean()

    def batches(epoch: int):
        for _ in range(2):
            yield torch.randn(5, 4)

    net = torch.optim.Adam(model["net"].parameters(), lr=0.01)
    noise = torch.optim.Adam(model["noise"].parameters(), lr=0.02)
    main = Objective(lambda batch: {"loss": loss(batch)}, net, constant)
    adversary = Objective(lambda batch: {"hardness": -0.01 * loss(batch)}, noise, constant)
    train(model, [main, adversary], folder, batches, num_epochs=2, save_every_steps=1)


@pytest.mark.parametrize("kill_at", [2, 3, 4, 6, 7])  # calls: before the step of the first, or between the two
def test_several_objectives_resume_to_the_same_bytes(tmp_path, kill_at):
    adversaries(tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        adversaries(tmp_path / "killed", kill_at)
    adversaries(tmp_path / "killed")
    for name in ("weights.safetensors", "manifest.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_parts_of_a_batch_by_hand(tmp_path):
    """Half of w^2 / 2 twice, from w = 1 at rate 1/2: w = 1/2, then 1/4; the value is the sum of both halves."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)

    def halves(batch: str):
        yield {"a": model.weight.square().sum() / 4}
        assert model.weight.grad is not None  # the first half has gone backward before the second is computed
        yield {}
        yield {"a": model.weight.square().sum() / 4, "b": 0 * model.weight.sum()}

    train(model, [Objective(halves, torch.optim.SGD(model.parameters(), lr=0.5), constant)], tmp_path)
    assert model.weight.item() == 0.25
    assert training_history(tmp_path) == [{"a": (1 / 2 + 1 / 8) / 2, "b": 0.0}]


def test_halves_of_a_batch_teach_what_the_whole_does(tmp_path):
    def trained(name: str, num_parts: int) -> nn.Module:
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

        def losses(batch: Tensor):
            for part in batch.chunk(num_parts):
                yield {"square": (model(part) - 1).square().sum() / len(batch)}

        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        objective = Objective(losses, optimizer, constant, clip_norm=0.1)
        train(model, [objective], tmp_path / name, batches=lambda epoch: list(torch.randn(2, 6, 4)))
        return model

    whole, halves = trained("whole", 1), trained("halves", 2)
    for wanted, parameter in zip(whole.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted)
    (of_whole,), (of_halves,) = training_history(tmp_path / "whole"), training_history(tmp_path / "halves")
    assert of_halves == pytest.approx(of_whole)


@pytest.mark.parametrize("parts", [[], [{}]])
def test_a_batch_of_no_parts_teaches_nothing(tmp_path, parts):
    """Not even the momentum or the decay of the weights moves them."""
    model = Players(1.0, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    objective = Objective(lambda batch: {"a": model.a} if batch == "0.jpg" else iter(parts), optimizer, constant)
    train(model, [objective], tmp_path)
    assert model.a.item() == pytest.approx(1 - 0.5 * 1.1)
    assert training_history(tmp_path) == [{"a": 0.5}]


def test_each_number_of_the_gradient_is_cut_after_the_sum_of_its_parts(tmp_path):
    """a moves by 0.5 at most, b by its whole gradient: from a = 1, b = 1 with the gradients 2 + 2 and 0.25 + 0.125."""
    model = Players(1.0, 1.0)
    both = torch.optim.SGD([model.a, model.b], lr=1.0)

    def parts(batch):
        return [{"first": 2 * model.a + 0.25 * model.b}, {"second": 2 * model.a + 0.125 * model.b}]

    train(model, [Objective(parts, both, constant, clip_value=0.5)], tmp_path)
    assert (model.a.item(), model.b.item()) == (1 - 2 * 0.5, 1 - 2 * 0.375)
