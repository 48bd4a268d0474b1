"""Kill a training before one of its steps, with a state saved after every step or after every epoch alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import pytest

from tests.helpers import Stopped
from weaksam.engine.training import ObjectiveStep
from weaksam.engine.training_job import TrainingJob

Step = tuple[str, int, int]
"""The training's label, the number of the step, and that of the objective."""


@contextmanager
def killed_at(module: ModuleType, end: Step | None, save_every_steps: int | None = None) -> Iterator[list[Step]]:
    """Trainings in the block end before the step ``end``; the list gets every step that is taken.

    ``module`` is the one that makes the `TrainingJob`.
    """
    steps: list[Step] = []
    take = ObjectiveStep.take

    def taken(self: ObjectiveStep, batch: object, step: int) -> None:
        at = (self.values.label, step, self.number)
        if at == end:
            raise Stopped
        take(self, batch, step)
        steps.append(at)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ObjectiveStep, "take", taken)
        patched.setattr(module, "TrainingJob", partial(TrainingJob, save_every_steps=save_every_steps))
        yield steps
