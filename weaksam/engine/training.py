"""Train any model on any losses, so that a killed run resumed equals an unbroken one bit for bit."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.engine.log import RunLog
from weaksam.engine.mixed_precision import ScaledAdam
from weaksam.engine.schedules import warmup_cosine, warmup_steps
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training_state import Place, load_place, load_trained, save_place, seal, training_history
from weaksam.store.progress import Progress

__all__ = ["Losses", "Objective", "fit", "load_trained", "training_history", "warmup_cosine", "warmup_steps"]

Losses = Mapping[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """Losses to minimise over the parameters that one optimizer holds.

    ``losses(batch)`` gives scalars by name, or an iterator of such mappings, one for each part of the batch
    (micro-batches): every part goes backward before the next is computed, and one step follows on the sum of all.
    Whoever splits a batch also scales its parts, say by 1 / number of photos.
    """

    losses: Callable[[Any], Losses | Iterable[Losses]]
    optimizer: torch.optim.Optimizer
    lr_factor: Callable[[int, int], float]
    """``(step, total)`` to what multiplies the optimizer's learning rates; ``step`` is 0-based."""
    clip_norm: float | None = None
    """Cut the gradient over the optimizer's parameters to this norm."""


def fit(
    model: nn.Module,
    losses: Callable[[Any], Losses | Iterable[Losses]],
    batches: Callable[[int], Iterable[Any]],
    optimizer: torch.optim.Optimizer,
    *,
    num_steps_per_epoch: int,
    lr_factor: Callable[[int, int], float],
    folder: Path,
    fingerprint: str,
    seed: int,
    label: str,
    num_epochs: int | None = None,
    num_steps: int | None = None,
    log: RunLog | None = None,
    clip_norm: float | None = None,
    then: Sequence[Objective] = (),
    on_epoch_end: Callable[[int], None] | None = None,
    save_every: float | None = 300.0,
    save_every_steps: int | None = None,
) -> None:
    """Minimise the sum of ``losses(batch)``; at the end ``model`` holds the trained weights and ``folder`` is sealed.

    It takes one step a batch, for ``num_epochs`` passes or, where it is given, for ``num_steps`` steps in all, which
    may end within an epoch. ``losses``, ``optimizer``, ``lr_factor`` and ``clip_norm`` are an `Objective`; each one of
    ``then`` takes its own step on the same batch after it. An objective moves only what its optimizer holds and sees
    no gradient of another; names of losses differ between objectives. A batch for which an objective has no losses
    teaches it nothing and is passed over. ``model.train()`` is called each epoch.

    ``batches(epoch)`` gives the ``num_steps_per_epoch`` batches of an epoch, as a sequence or one by one, and may
    draw from the global random numbers, which are seeded from (seed, label, epoch) as each epoch begins. It must keep
    no state of its own between epochs. A training resumed within an epoch passes over the batches it has seen (of a
    sequence it takes the slice that is left) and then restores the random numbers: what is drawn before the first
    batch is drawn again alike, but a draw for one batch must happen as it is produced and not decide about later ones.

    ``folder/state.safetensors`` is replaced atomically after each epoch and, within one, as soon as ``save_every``
    seconds have passed or after ``save_every_steps`` steps; a later call goes on from there, on the CPU to the same
    bytes. The end is ``weights.safetensors`` and ``manifest.json`` (fingerprint, SHA-256, mean losses per epoch); a
    call that finds them loads the weights and returns.

    Raises `UserError` for a loss or gradient that is not finite, naming the images (on an accelerator some steps
    later, but before any state is saved), and for a folder of another fingerprint or with damaged weights.
    """
    if load_trained(model, folder, fingerprint, label):
        return
    assert num_epochs is not None or num_steps is not None, f"{label}: wanted num_epochs or num_steps, found neither"
    total = num_steps if num_steps is not None else (num_epochs or 0) * num_steps_per_epoch
    last_epoch = (num_epochs or 0) if num_steps is None else -(-num_steps // num_steps_per_epoch)
    objectives = [Objective(losses, optimizer, lr_factor, clip_norm), *then]
    optimizers = [objective.optimizer for objective in objectives]
    place = load_place(model, optimizers, folder, fingerprint, label)
    saver = _Saver(lambda: save_place(place, model, optimizers, folder, fingerprint), save_every, save_every_steps)
    with Progress(total, label) as shown:
        shown.skip(min(len(place.history) * num_steps_per_epoch, total) + place.steps)
        course = _Course(model, objectives, place, saver, shown, label, total)
        for epoch in range(len(place.history), last_epoch):
            start = time.monotonic()
            seed_everything(derive_seed(seed, label, epoch))
            model.train()
            course.epoch(batches(epoch), epoch * num_steps_per_epoch, num_steps_per_epoch)
            if on_epoch_end is not None:
                on_epoch_end(epoch)
            saver.save()
            if log is not None:
                seconds = round(time.monotonic() - start, 2)
                log.write("epoch", label=label, epoch=epoch + 1, losses=place.history[-1], seconds=seconds)
    seal(model, folder, fingerprint, label, place.history)


class _Saver:
    """Saves when it is told to, and knows when that is due within an epoch."""

    def __init__(self, save: Callable[[], None], every: float | None, every_steps: int | None) -> None:
        self._save, self._every, self._every_steps = save, every, every_steps
        self._saved_at, self._steps = time.monotonic(), 0

    def due_after_step(self) -> bool:
        """Count one step more; whether seconds or steps enough have passed since the last save."""
        self._steps += 1
        late = self._every is not None and time.monotonic() - self._saved_at >= self._every
        return late or (self._every_steps is not None and self._steps >= self._every_steps)

    def save(self) -> None:
        """Save now."""
        self._save()
        self._saved_at, self._steps = time.monotonic(), 0


class _Course:
    """The way through the epochs from a place on: steps, their losses, and saves between them."""

    def __init__(
        self,
        model: nn.Module,
        objectives: Sequence[Objective],
        place: Place,
        saver: _Saver,
        shown: Progress,
        label: str,
        total: int,
    ) -> None:
        self.place, self.saver, self.shown, self.label, self.total = place, saver, shown, label, total
        self.values = _LossValues(place, label, total)
        self.descents = [_Descent(model, objective, total) for objective in objectives]

    def epoch(self, batches: Iterable[Any], first_step: int, num_steps: int) -> None:
        """Take every step of an epoch of ``num_steps`` that is left, up to the training's last, and end the epoch."""
        place, wanted = self.place, min(num_steps, self.total - first_step)
        for batch in self._left(batches):
            for number, descent in enumerate(self.descents):
                descent.step(batch, first_step + place.steps, number, self.values)
            place.steps += 1
            self.shown.update(note=self.values.note)
            if place.steps < wanted and self.saver.due_after_step():
                self.values.fetch()
                self.saver.save()
            if place.steps == wanted < num_steps:
                break
        self.values.fetch()
        assert place.steps == wanted, f"{self.label}: wanted {wanted} batches in an epoch, found {place.steps}"
        place.end_epoch()

    def _left(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches that this epoch has not seen; the random numbers are then those of its last save."""
        done = self.place.steps
        if isinstance(batches, Sequence):
            left: Iterator[Any] = iter(batches[done:])  # by its own way through, which may make batches ahead
        else:
            left = iter(batches)
            for _ in itertools.islice(left, done):
                pass
        if self.place.random is not None:
            self.place.random.restore()
        return left


class _Descent:
    """Steps down the gradient of one objective, each with its learning rate."""

    def __init__(self, model: nn.Module, objective: Objective, total: int) -> None:
        self.model, self.objective, self.total = model, objective, total
        groups = objective.optimizer.param_groups
        self.base_lrs = [group["lr"] for group in groups]
        held = {id(one) for group in groups for one in group["params"]}
        self.parameters = [one for one in model.parameters() if id(one) in held]
        assert len(self.parameters) == len(held), "an optimizer holds parameters that are not the model's"

    def step(self, batch: Any, step: int, number: int, values: _LossValues) -> None:
        """Take the step number ``step`` (0-based) of objective ``number``; ``values`` get its losses before it."""
        optimizer, clip_norm = self.objective.optimizer, self.objective.clip_norm
        self.model.zero_grad(set_to_none=True)
        found = self._backward(self.objective.losses(batch))
        if not found:
            return
        norm = None if clip_norm is None else self._clip(clip_norm)
        values.add(found, norm, batch, step, number)
        for group, base_lr in zip(optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * self.objective.lr_factor(step, self.total)
        optimizer.step()

    def _backward(self, losses: Losses | Iterable[Losses]) -> dict[str, Tensor]:
        """Add up the gradients of all parts of a batch over the objective's parameters; the sum of every loss."""
        inputs = [one for one in self.parameters if one.requires_grad]
        sums: dict[str, Tensor] = {}
        for part in [losses] if isinstance(losses, Mapping) else losses:
            if part:
                torch.stack(list(part.values())).sum().backward(inputs=inputs)
                for name, value in part.items():
                    sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        return sums

    def _clip(self, clip_norm: float) -> Tensor | None:
        """Cut the gradient and return its norm before; none with a loss scale, which copes with overflow itself."""
        optimizer = self.objective.optimizer
        scale = optimizer.loss_scale if isinstance(optimizer, ScaledAdam) else 1.0
        norm = nn.utils.clip_grad_norm_(self.parameters, clip_norm * scale)
        return None if isinstance(optimizer, ScaledAdam) and optimizer.half else norm


@dataclass(frozen=True)
class _Found:
    """What one objective's step found: ``values`` (L,) by name on the device, and where."""

    names: tuple[str, ...]
    values: Tensor
    image_ids: tuple[str, ...]
    step: int
    number: int


class _LossValues:
    """Brings the values of losses to the CPU, at once or from an accelerator some steps together.

    There each is checked to be finite and added to the place's sums.
    """

    def __init__(self, place: Place, label: str, total: int) -> None:
        self.place, self.label, self.total = place, label, total
        self.note = ""
        """The latest known loss of the first objective, as text."""
        self._waiting: list[_Found] = []
        self._number_of: dict[str, int] = {}

    def add(self, losses: Losses, norm: Tensor | None, batch: Any, step: int, number: int) -> None:
        """Take the losses that objective ``number`` had in ``step`` (0-based), and the norm of its gradient if asked.

        Raises `UserError`, on the CPU at once, if one is not finite.
        """
        for name in losses:
            assert self._number_of.setdefault(name, number) == number, f"two objectives have a loss named {name}"
        device = next(iter(losses.values())).device
        checked = [*losses.values(), *([] if norm is None else [norm.detach()])]
        values = torch.stack([value.reshape(()).to(device) for value in checked])
        self._waiting.append(_Found(tuple(losses), values, tuple(_image_ids(batch)), step, number))
        if step - self._waiting[0].step + 1 >= _steps_together(device):
            self.fetch()

    def fetch(self) -> None:
        """Bring all that waits to the CPU in one go. Raises `UserError` for the first that is not finite."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        device = waiting[-1].values.device
        values = iter(torch.cat([found.values.to(device) for found in waiting]).tolist())
        for found in waiting:
            self._take(found, list(itertools.islice(values, len(found.values))))

    def _take(self, found: _Found, values: Sequence[float]) -> None:
        for name, value in zip((*found.names, "gradient norm"), values, strict=False):
            if not math.isfinite(value):
                raise UserError(
                    f"{self.label}, step {found.step + 1} of {self.total}: wanted a finite {name}, found {value} on "
                    f"the images {', '.join(found.image_ids)}: lower the learning rate, or look at those photos and "
                    "their tags"
                )
        losses = dict(zip(found.names, values, strict=False))  # the norm is behind them
        for name, value in losses.items():
            self.place.sums[name] = self.place.sums.get(name, 0.0) + value
        if found.number == 0:
            self.note = f"loss {sum(losses.values()):.4g}"


def _steps_together(device: torch.device) -> int:
    """After how many steps losses are fetched: each fetch waits until an accelerator has finished."""
    return 1 if device.type == "cpu" else 20


def _image_ids(batch: Any) -> list[str]:
    """The image ids a batch or its items tell as ``image_ids`` or ``image_id``, else the batch as short text."""
    if isinstance(batch, str):
        return [batch]
    if isinstance(batch, Mapping):
        named = batch.get("image_ids", batch.get("image_id"))
    else:
        named = getattr(batch, "image_ids", getattr(batch, "image_id", None))
    if named is not None:
        return [named] if isinstance(named, str) else [str(image_id) for image_id in named]
    if isinstance(batch, (list, tuple)):
        return [image_id for item in batch if not isinstance(item, Tensor) for image_id in _image_ids(item)]
    # The text of tensors is slow to make, and this is asked for at every step.
    return [str(batch)[:60] if isinstance(batch, (int, float)) else f"of a {type(batch).__name__}"]
