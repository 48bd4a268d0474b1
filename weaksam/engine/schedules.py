"""Change the learning rate over the steps of a training, by factors for ``Objective.lr_factor``."""

from __future__ import annotations

import math
from collections.abc import Sequence

_ROUNDING = 1e-6  # steps: a milestone given as 119 / 30000 is met at step 119 whatever its product rounds to


def warmup_cosine(step: int, total: int, warmup: int = 0) -> float:
    """Factor of the learning rate in (0, 1]: a linear rise over ``warmup`` steps, then half a cosine towards 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def warmup_steps(
    step: int,
    total: int,
    warmup: int = 0,
    milestones: Sequence[float] = (0.7, 0.9),
    gamma: float = 0.1,
    start_ratio: float | None = None,
) -> float:
    """Factor of the learning rate: a linear rise over ``warmup`` steps, then times ``gamma`` at each milestone.

    The rise starts at ``start_ratio`` in step 0 and is at 1 in step ``warmup``, as in detectron and mmcv; without it,
    at 1 / (warmup + 1). Milestones are shares of ``total`` in [0, 1]; ``gamma`` is above 0 and may be above 1.
    """
    reached = sum(step + _ROUNDING >= milestone * total for milestone in milestones)
    return _rise(step, warmup, start_ratio) * gamma**reached


def _rise(step: int, warmup: int, start_ratio: float | None) -> float:
    """Factor of the warm-up alone: 1 from step ``warmup`` on."""
    if step >= warmup:
        return 1.0
    if start_ratio is None:
        return (step + 1) / (warmup + 1)
    return start_ratio + (1 - start_ratio) * step / warmup
