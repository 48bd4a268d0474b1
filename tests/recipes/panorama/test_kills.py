"""Each training of the panorama recipe, killed within an epoch and resumed, gives the bytes of an unbroken one."""

from pathlib import Path

import pytest

from tests.helpers import Stopped
from tests.recipes.kills import Step, killed_at
from tests.recipes.panorama.toys import SMALL, weights_in
from weaksam.config import load_settings
from weaksam.pipeline.panorama import run_panorama
from weaksam.recipes.panorama import PanoramaSettings, assistant
from weaksam.recipes.panorama.assistant import ASSISTANT, RECTIFIED
from weaksam.recipes.panorama.student import STUDENT
from weaksam.scenes.panoramas import StreetSettings, write_panoramas


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    write_panoramas(folder, StreetSettings(height=32, photo_size=32, rays=1), 2, 1, 3, seed=0)
    return folder


def steps_of(streets: Path, out: Path, phases: str, end: Step | None, save_every_steps: int | None) -> list[Step]:
    """The steps that a run takes, to its end or to the step ``end``."""
    given = [f"out={out}", f"phases={phases}", *SMALL.split()]
    settings = load_settings(PanoramaSettings, streets / "panorama.yaml", given)
    with killed_at(assistant, end, save_every_steps) as steps:
        if end is None:
            run_panorama(settings)
        else:
            with pytest.raises(Stopped):
                run_panorama(settings)
    return steps


@pytest.mark.slow
def test_two_phases_killed_in_each_training_end_in_the_same_bytes(streets: Path, tmp_path: Path) -> None:
    unbroken = [
        *((ASSISTANT, step, 0) for step in range(5)),
        *((RECTIFIED, step, 0) for step in range(4)),
        *((STUDENT, step, 0) for step in range(4)),
    ]
    assert steps_of(streets, tmp_path / "whole", "two", None, None) == unbroken
    weights = weights_in(tmp_path / "whole")
    trained = {f"{folder}/weights.safetensors" for folder in ("assistant", "rectified", "student")}
    assert trained <= set(weights) and len(set(weights.values())) == len(weights)
    for save_every_steps in (None, 1):  # from the epoch's beginning, and from the step before
        out = tmp_path / f"killed-{save_every_steps}"
        steps = []
        for end in ((ASSISTANT, 4, 0), (RECTIFIED, 3, 0), (STUDENT, 3, 0), None):
            steps += steps_of(streets, out, "two", end, save_every_steps)
        again = [(ASSISTANT, 3, 0), (RECTIFIED, 2, 0), (STUDENT, 2, 0)] if save_every_steps is None else []
        assert sorted(steps) == sorted([*unbroken, *again])
        assert weights_in(out) == weights


@pytest.mark.slow
def test_both_in_turn_killed_end_in_the_same_bytes(streets: Path, tmp_path: Path) -> None:
    steps_of(streets, tmp_path / "whole", "joint", None, None)
    weights = weights_in(tmp_path / "whole")
    assert "joint/weights.safetensors" in weights
    for objective in (0, 1):  # before the student's step, and between it and the assistant's
        for save_every_steps, first in ((None, 2), (1, 3)):
            out = tmp_path / f"killed-{objective}-{save_every_steps}"
            steps_of(streets, out, "joint", (STUDENT, 3, objective), save_every_steps)
            steps = steps_of(streets, out, "joint", None, save_every_steps)
            assert steps == [(STUDENT, step, number) for step in range(first, 4) for number in (0, 1)]
            assert weights_in(out) == weights
