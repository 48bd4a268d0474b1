"""Describe one training: where it is stored, what identifies it, how long it is and how often its state is saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weaksam.engine.log import RunLog


@dataclass(frozen=True)
class TrainingJob:
    """One training as `fit` and the functions of its state see it; its model and data are not part of it."""

    folder: Path
    """Holds the last two states while the training runs, ``weights.safetensors`` and ``manifest.json`` at its end."""
    fingerprint: str
    """Hex of all that decides the trained weights; a folder with another one is refused."""
    label: str
    """What is trained, as messages and the log name it; the random numbers follow from it as well."""
    seed: int
    """Seed of the run, at least 0: the random numbers of an epoch follow from (seed, label, epoch)."""
    num_epochs: int | None = None
    """Passes over the batches; read where ``num_steps`` is None."""
    num_steps: int | None = None
    """Steps in all, which may end within an epoch; one of the two numbers must be given."""
    classes: tuple[str, ...] = ()
    """Names of the classes that the weights tell apart, kept with them; empty: none are kept."""
    stop_share: float = 1.0
    """End after this share of the steps, above 0, which are those that the whole training begins with."""
    log: RunLog | None = None
    """Gets an event ``epoch`` with the mean losses and the seconds of every epoch; None: not logged."""
    save_every_seconds: float | None = 300.0
    """The state is saved within an epoch as soon as so many seconds have passed; None: time saves nothing."""
    save_every_steps: int | None = None
    """The state is saved within an epoch after so many steps as well; None: steps save nothing."""

    def total_steps(self, num_steps_per_epoch: int) -> int:
        """Steps of the whole training."""
        return self.num_steps if self.num_steps is not None else self._given_epochs() * num_steps_per_epoch

    def last_step(self, num_steps_per_epoch: int) -> int:
        """Steps after which the training ends: ``stop_share`` of all, rounded, and at least one."""
        return max(1, round(self.stop_share * self.total_steps(num_steps_per_epoch)))

    def total_epochs(self, num_steps_per_epoch: int) -> int:
        """Epochs of the whole training, the last of which may be cut short by ``num_steps``."""
        return self._given_epochs() if self.num_steps is None else -(-self.num_steps // num_steps_per_epoch)

    def _given_epochs(self) -> int:
        assert self.num_epochs is not None, f"{self.label}: wanted num_epochs or num_steps, found neither"
        return self.num_epochs
