"""Keep a moving average of the weights that an optimizer trains, in the optimizer's own state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class WeightAverage:
    """Exponential moving average of the trained weights after each step of ``optimizer``.

    After step n (1-based) the average keeps a share of min(``decay``, (1 + n) / (10 + n)) of itself, so that the first
    steps are soon forgotten. It lies in the optimizer's state: what saves and resumes the one does so with the other.
    Weights that do not train stay as they are. Several averages of one optimizer have different names.
    """

    def __init__(self, optimizer: Optimizer, decay: float, name: str = "average") -> None:
        self.optimizer, self.decay = optimizer, decay
        self.name, self.count = name, "steps_averaged" if name == "average" else f"steps_of_{name}"
        optimizer.register_step_post_hook(self._after_step)

    @torch.no_grad()
    def put_in(self) -> None:
        """Set the trained weights to their average; nothing changes before the first step."""
        for parameter in self._parameters():
            parameter.copy_(self.of(parameter))

    def of(self, parameter: Tensor) -> Tensor:
        """The average of a trained weight; the weight itself before the first step."""
        average: Tensor = self.optimizer.state.get(parameter, {}).get(self.name, parameter.detach())
        return average

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        count = optimizer.state[self.count]  # type: ignore[index]  # a state of no parameter
        count[self.count] = steps = int(count.get(self.count, 0)) + 1
        # One that never had a gradient has no state, which Adam would want whole when it is loaded
        parameters = [p for p in self._parameters() if p.grad is not None or self.name in optimizer.state.get(p, {})]
        averages = [optimizer.state[p].setdefault(self.name, p.detach().clone()) for p in parameters]
        torch._foreach_lerp_(averages, parameters, 1 - min(self.decay, (1 + steps) / (10 + steps)))

    def _parameters(self) -> list[Tensor]:
        """Every parameter that the optimizer holds."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
