"""Small settings of the panorama recipe, and runs of it that end before a step of one of its trainings."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.helpers import Stopped
from weaksam.engine.training import ObjectiveStep
from weaksam.engine.training_job import TrainingJob
from weaksam.recipes.panorama import assistant

SMALL = (
    "assistant.variant=nano student.variant=nano threads=1 device=cpu windows.size=[32,64] max_masks=5 data.test=null "
    "assistant.steps=5 assistant.batch_size=1 rectification.steps=4 student.steps=4 student.batch_size=1"
)
"""Epochs of three photos, and of two panoramas."""
Step = tuple[str, int, int]
"""The training's label, the number of the step, and that of the objective."""


@contextmanager
def killed_at(end: Step | None, save_every_steps: int | None) -> Iterator[list[Step]]:
    """Trainings in the block end before the step ``end``; the list gets every step that is taken."""
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
        patched.setattr(assistant, "TrainingJob", partial(TrainingJob, save_every_steps=save_every_steps))
        yield steps


def weights_in(out: Path) -> dict[str, bytes]:
    """The bytes of all trained weights."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.glob("**/*.safetensors"))}
