"""Run a function in several processes that train together, over gloo on the CPU, and record what a training does."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tests.helpers import PROCESSES
from weaksam.engine.distributed import Launch, training_together
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob

ZERO = 1e-6
"""Gradients below this share of the greatest are rounding: those of a bias before a normalisation, which are 0."""


class Trained(NamedTuple):
    """What a training did: mean losses, the gradients before every optimizer's step, and the last weights, by name."""

    losses: dict[str, float]
    gradients: list[dict[str, np.ndarray]]
    weights: dict[str, np.ndarray]


def on_ranks(size: int, out: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` returns on each of ``size`` ranks, which meet in the folder ``out``."""
    pipes = [PROCESSES.Pipe(duplex=False) for _ in range(size)]
    processes = [
        PROCESSES.Process(target=_work_as, args=(rank, size, out, sender, work, arguments), daemon=True)
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    results = []
    for rank, (receiver, _) in enumerate(pipes):
        assert receiver.poll(300), f"rank {rank} gave no answer"
        results.append(receiver.recv())
    for process in processes:
        process.join(60)
    failures = [result for result in results if isinstance(result, str) and result.startswith("Traceback")]
    assert not failures, "\n".join(failures)
    return results


def _work_as(rank: int, size: int, out: Path, sender: Connection, work: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    try:
        with training_together(Launch("torchrun", rank, size, rank), out, "settings", timeout=120, job="test"):
            result = work(*arguments)
        sender.send(result)
    except BaseException:
        sender.send(traceback.format_exc())


def trained(
    folder: Path,
    model: nn.Module,
    objectives: Sequence[Objective],
    batches: Callable[[int], Sequence[Any]],
    num_steps: int,
    **job: Any,
) -> Trained:
    """Train ``model`` by `fit` for one epoch of ``num_steps``; ``job`` changes the `TrainingJob`."""
    gradients: list[dict[str, np.ndarray]] = []

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        named = ((name, parameter.grad) for name, parameter in model.named_parameters() if id(parameter) in held)
        gradients.append({name: gradient.numpy().copy() for name, gradient in named if gradient is not None})

    for objective in objectives:
        objective.optimizer.register_step_pre_hook(keep)
    settings = {"num_epochs": 1, "save_every_seconds": None, **job}
    fit(model, objectives, batches, TrainingJob(folder, "f", "training", 0, **settings), num_steps_per_epoch=num_steps)
    losses = json.loads((folder / "manifest.json").read_text())["history"][-1]
    return Trained(losses, gradients, {name: value.numpy().copy() for name, value in model.state_dict().items()})


def assert_same_training(ours: Trained, theirs: Trained, tolerance: float, weights: bool = True) -> None:
    """Losses, gradients and ``weights`` differ by less than ``tolerance``, relative to the largest of each tensor."""
    assert set(ours.losses) == set(theirs.losses)
    for name, loss in ours.losses.items():
        of_figure = max(tolerance, 1e-6) if name.startswith("dropped") else tolerance  # counts divided in float32
        assert abs(loss - theirs.losses[name]) <= of_figure * abs(loss), name
    assert len(ours.gradients) == len(theirs.gradients) > 0
    for step, (some, others) in enumerate(zip(ours.gradients, theirs.gradients, strict=True)):
        assert set(some) == set(others) and len(some) > 0
        greatest = max(np.abs(gradient).max() for gradient in some.values())
        assert greatest > 0
        for name, gradient in some.items():
            scale = max(np.abs(gradient).max(), ZERO * greatest)
            assert np.abs(gradient - others[name]).max() <= tolerance * scale, (step, name)
    for name, value in ours.weights.items() if weights else ():
        assert np.abs(value - theirs.weights[name]).max() <= tolerance * max(np.abs(value).max(), 1e-3), name
