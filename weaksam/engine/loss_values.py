"""Check that the losses of every training step are finite, and sum them up over an epoch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.engine.training_state import TrainingProgress
from weaksam.structures.devices import reading_is_free

Losses = Mapping[str, Tensor]
"""Scalar losses by name."""


@dataclass(frozen=True)
class _StepLosses:
    """Losses of one step of one objective, still on the device, and what it reports beside them.

    ``figures`` are the names that were not trained on. ``values`` (L,) or (L + 1,) float: one for each of the
    ``names``, then the gradient's norm if that is checked too.
    """

    names: tuple[str, ...]
    figures: frozenset[str]
    values: Tensor
    image_ids: tuple[str, ...]
    step: int
    objective: int


class LossValues:
    """Brings the values of losses to the CPU, checks that they are finite, and adds them to the sums of ``progress``.

    On the CPU that happens at each step, on an accelerator for some steps together. ``label`` and ``total`` (steps of
    the training) stand in the message about a value that is not finite.
    """

    def __init__(self, progress: TrainingProgress, label: str, total: int) -> None:
        self.progress, self.label, self.total = progress, label, total
        self.note = ""
        """The latest known loss of the first objective, as text."""
        self._waiting: list[_StepLosses] = []
        self._objective_of: dict[str, int] = {}

    def add(
        self,
        losses: Losses,
        norm: Tensor | None,
        batch: Any,
        step: int,
        objective: int,
        figures: frozenset[str] = frozenset(),
    ) -> None:
        """Take the losses that objective number ``objective`` had in ``step`` (0-based), and its gradient's norm.

        ``figures`` names those that are only reported: they are summed up, but no part of the loss shown.
        Raises `UserError`, on the CPU at once, if one is not finite.
        """
        for name in losses:
            owner = self._objective_of.setdefault(name, objective)
            assert owner == objective, f"two objectives have a loss named {name}"
        device = next(iter(losses.values())).device
        checked = [*losses.values(), *([] if norm is None else [norm.detach()])]
        values = torch.stack([value.reshape(()).to(device) for value in checked])
        self._waiting.append(_StepLosses(tuple(losses), figures, values, tuple(image_ids_of(batch)), step, objective))
        if step - self._waiting[0].step + 1 >= _steps_together(device):
            self.fetch()

    def fetch(self) -> None:
        """Add all that waits to the sums. Raises `UserError` for the first value that is not finite."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        device = waiting[-1].values.device
        # One copy from the device for all steps
        values = iter(torch.cat([losses.values.to(device) for losses in waiting]).tolist())
        for losses in waiting:
            self._add_to_sums(losses, list(itertools.islice(values, len(losses.values))))

    def _add_to_sums(self, losses: _StepLosses, values: Sequence[float]) -> None:
        """Add one step's ``values`` (of the losses, then of the gradient's norm if it is checked) if all are finite."""
        for name, value in zip((*losses.names, "gradient norm"), values, strict=False):
            if not math.isfinite(value):
                raise UserError(
                    f"{self.label}, step {losses.step + 1} of {self.total}: wanted a finite {name}, found {value} on "
                    f"the images {', '.join(losses.image_ids)}: lower the learning rate, or check those photos and "
                    "their tags"
                )
        of_losses = values[: len(losses.names)]  # without the gradient's norm
        for name, value in zip(losses.names, of_losses, strict=True):
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value
        if losses.objective == 0:
            trained = [value for name, value in zip(losses.names, of_losses, strict=True) if name not in losses.figures]
            self.note = f"loss {sum(trained):.4g}"


def image_ids_of(batch: Any) -> list[str]:
    """The image ids in ``image_ids`` or ``image_id`` of a batch or of its items, else the batch as short text."""
    if isinstance(batch, str):
        return [batch]
    if isinstance(batch, Mapping):
        named = batch.get("image_ids", batch.get("image_id"))
    else:
        named = getattr(batch, "image_ids", getattr(batch, "image_id", None))
    if named is not None:
        return [named] if isinstance(named, str) else [str(image_id) for image_id in named]
    if isinstance(batch, (list, tuple)):
        return [image_id for item in batch if not isinstance(item, Tensor) for image_id in image_ids_of(item)]
    # The text of tensors is slow to make, and this is asked for at every step.
    return [str(batch)[:60] if isinstance(batch, (int, float)) else f"of a {type(batch).__name__}"]


def _steps_together(device: torch.device) -> int:
    """After how many steps losses are fetched: each fetch waits until an accelerator has finished."""
    return 1 if reading_is_free(device) else 20
