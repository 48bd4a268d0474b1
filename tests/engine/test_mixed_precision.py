"""Adam with the loss scale of float16 ends, with either decay, at torch's own weights, and resumes with its scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers import CPU, training_history
from weaksam.engine.mixed_precision import ScaledAdam, ScaledAdamW, autocast, forward_dtype
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    num_parts: int = 1,
    *,
    overflow: Sequence[str] = (),
    kill_at: str | None = None,
    clip_norm: float | None = None,
) -> list[torch.Tensor]:
    """Three steps on the parts of batches; a batch named in ``overflow`` sends back infinite gradients."""

    def losses(batch: tuple[str, torch.Tensor]):
        if batch[0] == kill_at:
            raise KeyboardInterrupt
        for part in batch[1].chunk(num_parts):
            loss = (model(part) - 1).square().sum() / len(batch[1])
            if batch[0] in overflow:
                loss.register_hook(lambda gradient: gradient * math.inf)
            values = {"loss": loss, "constant": torch.ones(())}  # the second sends nothing back
            yield optimizer.scaled(values) if isinstance(optimizer, ScaledAdam) else values

    def batches(epoch: int):
        return [(f"{index}.jpg", inputs) for index, inputs in enumerate(torch.randn(3, 6, 4))]

    objective = Objective(losses, optimizer, lambda step, total: 1.0, clip_norm)
    job = TrainingJob(folder, "f", "toy", seed=0, num_epochs=1, save_every_steps=1)
    fit(model, [objective], batches, job, num_steps_per_epoch=3)
    return [parameter.detach() for parameter in model.parameters()]


def groups_of(model: nn.Sequential) -> list[dict]:
    """Biases without decay and at twice the rate, as the recipes of the weak detectors have it."""
    weights, biases = [model[0].weight, model[2].weight], [model[0].bias, model[2].bias]
    return [{"params": weights}, {"params": biases, "lr": 0.2, "weight_decay": 0.0}]


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize(
    ("plain", "scaled"),
    [
        (torch.optim.Adam, ScaledAdam),
        (torch.optim.AdamW, ScaledAdamW),
        (torch.optim.AdamW, lambda *a, **k: ScaledAdam(*a, decoupled=True, **k)),
    ],
)
def test_the_weights_are_those_of_torch(tmp_path, plain, scaled, num_parts):
    """The scale is a power of two: in float32 the gradients come back the same, part by part."""
    weights = {}
    for name, build in (("torch", plain), ("whole", scaled), ("half", lambda *a, **k: scaled(*a, half=True, **k))):
        model = make_model()
        optimizer = build(groups_of(model), lr=0.1, weight_decay=0.3)
        weights[name] = train(model, optimizer, tmp_path / name, num_parts)
    for name in ("whole", "half"):
        assert all(torch.equal(a, b) for a, b in zip(weights["torch"], weights[name], strict=True))


def test_the_two_decays_differ(tmp_path):
    models = [make_model(), make_model()]
    first = train(models[0], ScaledAdam(models[0].parameters(), lr=0.1, weight_decay=0.3), tmp_path / "a")
    second = train(models[1], ScaledAdamW(models[1].parameters(), lr=0.1, weight_decay=0.3), tmp_path / "b")
    assert not torch.equal(first[0], second[0])


def test_the_gradient_is_cut_to_its_norm_without_the_scale(tmp_path):
    trained = []
    for half in (False, True):
        model = make_model()
        optimizer = ScaledAdam(model.parameters(), lr=0.1, half=half)
        trained.append(train(model, optimizer, tmp_path / str(half), clip_norm=1e-8))
    untouched = train(model := make_model(), ScaledAdam(model.parameters(), lr=0.1), tmp_path / "untouched")
    for plain, half, uncut in zip(*trained, untouched, strict=True):
        torch.testing.assert_close(half, plain)
        assert not torch.allclose(plain, uncut, atol=1e-3)  # Adam's epsilon is above gradients so small


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_overflow_is_passed_over_and_halves_the_scale_even_as_the_first_step_before_a_kill(tmp_path, clip_norm):
    def run(name: str, **options) -> ScaledAdam:
        model = make_model()
        optimizer = ScaledAdam(model.parameters(), lr=0.1, half=True)
        train(model, optimizer, tmp_path / name, overflow=("0.jpg",), clip_norm=clip_norm, **options)
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
        return optimizer

    assert run("unbroken").loss_scale == 2.0**13
    assert math.isfinite(training_history(tmp_path / "unbroken")[0]["loss"])
    with pytest.raises(KeyboardInterrupt):
        run("killed", kill_at="1.jpg")
    assert run("killed").loss_scale == 2.0**13
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("unbroken", "killed")]
    assert weights[0] == weights[1]


def test_the_scale_is_found_where_older_versions_kept_it():
    model = make_model()
    optimizer = ScaledAdamW(model.parameters(), lr=0.1, weight_decay=0.1, half=True)
    (scaled,) = optimizer.scaled({"loss": model(torch.ones(2, 4)).square().mean()}).values()
    scaled.backward()
    optimizer.step()
    old = optimizer.state_dict()
    del old["state"]["scale"]
    old["state"][0] |= {"loss_scale": torch.tensor(512.0), "good_steps": torch.tensor(1999.0)}
    resumed = ScaledAdamW(model.parameters(), lr=0.1, weight_decay=0.1, half=True)
    resumed.load_state_dict(old)
    assert resumed.loss_scale == 512.0
    resumed.step()
    assert resumed.loss_scale == 1024.0  # its 2000th good step


def test_the_cpu_computes_in_float32_unless_told():
    assert forward_dtype("auto", CPU) is torch.float32
    assert forward_dtype("float16", CPU) is torch.float16
    with autocast(torch.bfloat16, CPU):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype is torch.bfloat16
    with autocast(torch.float32, CPU):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype is torch.float32


def descend(half: bool, steps: int = 3) -> tuple[torch.Tensor, ScaledAdamW]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = ScaledAdamW(model.parameters(), lr=0.1, weight_decay=0.1, half=half)
    for step in range(steps):
        loss = model(torch.full((2, 4), step + 1.0)).square().mean()
        (scaled,) = optimizer.scaled({"loss": loss}).values()
        assert scaled.item() == loss.item()
        optimizer.zero_grad()
        scaled.backward()
        optimizer.step()
    return model.weight.detach(), optimizer


def test_scaled_losses_change_no_bit_of_the_weights():
    """The scale is a power of two: in float32 the gradients come back the same."""
    assert torch.equal(descend(half=True)[0], descend(half=False)[0])
    assert torch.equal(descend(half=False)[0], descend(half=False)[0]) and descend(half=False)[1].loss_scale == 1


def test_a_step_that_overflows_is_left_out_and_the_scale_halved():
    weight, optimizer = descend(half=True)
    before, scale = weight.clone(), optimizer.loss_scale
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.full_like(parameter, math.inf)
    optimizer.step()
    assert torch.equal(parameter.detach(), before) and optimizer.loss_scale == scale / 2
    fresh = torch.nn.Linear(4, 1)
    resumed = ScaledAdamW(fresh.parameters(), lr=0.1, weight_decay=0.1, half=True)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.loss_scale == scale / 2


def test_the_scale_grows_after_many_good_steps():
    _, optimizer = descend(half=True, steps=2001)
    assert optimizer.loss_scale == 2.0**15
