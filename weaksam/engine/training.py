"""Train any model on any losses, so that a killed and resumed run equals an unbroken one bit for bit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weaksam.engine.gradient_sum import GradientSum
from weaksam.engine.loss_values import Losses, LossValues
from weaksam.engine.mixed_precision import ScaledAdam
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.training_state import TrainingProgress, load_progress, load_trained, save_progress, seal
from weaksam.models.ranks import ranks
from weaksam.store.progress import Progress


@dataclass(frozen=True)
class Objective:
    """Losses to minimise over the parameters that one optimizer holds.

    ``losses(batch)`` gives scalars by name, or an iterator of such mappings, one for each part of the batch
    (micro-batches): every part goes backward before the next is computed, and one step follows on the sum of all.
    A function that splits a batch also scales its parts, say by 1 / number of photos.
    """

    losses: Callable[[Any], Losses | Iterable[Losses]]
    """A batch to its losses; none of them: the batch teaches nothing. Scalars without a gradient are figures, which are
    reported beside the losses."""
    optimizer: torch.optim.Optimizer
    """Holds parameters of the trained model, and only those."""
    lr_factor: Callable[[int, int], float]
    """``(step, total)`` to the factor of the optimizer's learning rates; ``step`` is 0-based."""
    clip_norm: float | None = None
    """Cut the gradient over the optimizer's parameters to this norm; None: it is left as it is."""
    clip_value: float | None = None
    """Cut each number of that gradient to this, after the norm; None: they are left as they are."""
    begin_step: Callable[[int, int], None] | None = None
    """Called with ``(step, total)`` before the losses of each step."""


def fit(
    model: nn.Module,
    objectives: Sequence[Objective],
    batches: Callable[[int], Iterable[Any]],
    job: TrainingJob,
    *,
    num_steps_per_epoch: int,
    on_epoch_end: Callable[[int], None] | None = None,
) -> None:
    """Train ``model`` on ``objectives``; at the end it holds the trained weights and ``job.folder`` is sealed.

    It takes one step of every objective a batch, in their order, for ``job.num_epochs`` passes or, where it is given,
    for ``job.num_steps`` steps in all, which may end within an epoch; or for the first ``job.stop_share`` of them. The
    first objective is the main one, whose loss the progress shows. An objective moves only what its optimizer holds and
    sees no gradient of another; names of losses differ between objectives. A batch for which an objective has no losses
    teaches it nothing and is passed over. ``model.train()`` is called each epoch, ``on_epoch_end(epoch)`` after it.

    ``batches(epoch)`` gives the ``num_steps_per_epoch`` batches of an epoch, as a sequence or one by one, and may
    draw from the global random numbers, which are seeded from (seed, label, epoch) as each epoch begins. It must keep
    no state of its own between epochs. A training resumed within an epoch passes over the batches it has seen (of a
    sequence it takes the slice that is left) and then restores the random numbers: what is drawn before the first
    batch is drawn again alike, but a draw for one batch must happen as it is produced and not decide about later ones.

    ``state.safetensors`` in the folder is replaced atomically after each epoch and, within one, as often as ``job``
    says; a later call goes on from there, or from the state before it where that is damaged, on the CPU to the same
    bytes. The end is ``weights.safetensors`` and ``manifest.json`` (fingerprint, SHA-256, mean losses per epoch); a
    call that finds them loads the weights and returns.

    Where several processes train together (`Ranks`), all call this with the same arguments, but each batch is that of
    one rank: its own photos, and ``counts=False`` where it has none of the batch. Losses are divided by what the whole
    batch has, gradients and losses are summed over the ranks, every rank takes the same step, and the first one saves.

    Raises `UserError` for a loss or gradient that is not finite, naming the images (on an accelerator some steps
    later, but before any state is saved), and for a folder of another fingerprint or with damaged weights.
    """
    if load_trained(model, job):
        return
    last = job.last_step(num_steps_per_epoch)
    optimizers = [objective.optimizer for objective in objectives]
    with ranks().first_before_others():  # it mends a damaged state
        progress = load_progress(model, optimizers, job)
    saver = _Saver(lambda: save_progress(progress, model, optimizers, job), job)
    with Progress(last, job.label) as bar:
        bar.skip(min(len(progress.history) * num_steps_per_epoch, last) + progress.steps)
        runner = _EpochRunner(model, objectives, progress, saver, bar, job.total_steps(num_steps_per_epoch))
        for epoch in range(len(progress.history), -(-last // num_steps_per_epoch)):
            start = time.monotonic()
            seed_everything(derive_seed(job.seed, job.label, epoch))
            model.train()
            runner.run(batches(epoch), epoch * num_steps_per_epoch, num_steps_per_epoch)
            if on_epoch_end is not None:
                on_epoch_end(epoch)
            saver.save()
            if job.log is not None and ranks().first:
                seconds = round(time.monotonic() - start, 2)
                job.log.write("epoch", label=job.label, epoch=epoch + 1, losses=progress.history[-1], seconds=seconds)
    with ranks().first_before_others():
        if ranks().first:
            seal(model, job, progress.history)


class _Saver:
    """Calls ``save`` when asked to, and knows when a save within an epoch is due by ``job``."""

    def __init__(self, save: Callable[[], None], job: TrainingJob) -> None:
        self._save, self._job = save, job
        self._saved_at, self._steps = time.monotonic(), 0

    def due_after_step(self) -> bool:
        """Count one step more; whether seconds or steps enough have passed since the last save, on the first rank."""
        if not ranks().first:
            return False
        self._steps += 1
        seconds, steps = self._job.save_every_seconds, self._job.save_every_steps
        late = seconds is not None and time.monotonic() - self._saved_at >= seconds
        return late or (steps is not None and self._steps >= steps)

    def save(self) -> None:
        """Save now, on the first rank."""
        if ranks().first:
            self._save()
        self._saved_at, self._steps = time.monotonic(), 0


class _EpochRunner:
    """Runs the remaining steps of an epoch from a saved position, adds up the losses, and saves between the steps.

    ``bar`` knows the label and the number of steps to take; ``total`` is that of the whole training.
    """

    def __init__(
        self,
        model: nn.Module,
        objectives: Sequence[Objective],
        progress: TrainingProgress,
        saver: _Saver,
        bar: Progress,
        total: int,
    ) -> None:
        self.progress, self.saver, self.bar = progress, saver, bar
        self.values = LossValues(progress, bar.label, total)
        self.steps = [
            ObjectiveStep(model, objective, number, total, self.values) for number, objective in enumerate(objectives)
        ]

    def run(self, batches: Iterable[Any], first_step: int, num_steps: int) -> None:
        """Take every step of an epoch of ``num_steps`` that is left, up to the last of all, and end the epoch."""
        progress, wanted = self.progress, min(num_steps, self.bar.total - first_step)
        for batch in self._remaining(batches):
            for step in self.steps:
                step.take(batch, first_step + progress.steps)
            progress.steps += 1
            self.bar.update(note=self.values.note)
            if progress.steps < wanted and self.saver.due_after_step():
                self.values.fetch()
                self.saver.save()
            if progress.steps == wanted < num_steps:
                break
        self.values.fetch()
        steps = progress.steps
        assert steps == wanted, f"{self.bar.label}: wanted {wanted} batches in an epoch, found {steps}"
        progress.end_epoch()

    def _remaining(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches that this epoch has not seen; the random numbers are then those of its last save."""
        num_seen = self.progress.steps
        if isinstance(batches, Sequence):
            remaining: Iterator[Any] = iter(batches[num_seen:])  # by the sequence's own iterator, which may load ahead
        else:
            remaining = iter(batches)
            for _ in itertools.islice(remaining, num_seen):
                pass
        if self.progress.random is not None:
            self.progress.random.restore()
        return remaining


class ObjectiveStep:
    """Takes the steps of one objective: gradient of its losses, learning rate, optimizer.

    ``number`` is the objective's index among all of them, ``total`` the number of steps of the whole training;
    ``values`` gets the losses of every step before it is taken.
    """

    def __init__(self, model: nn.Module, objective: Objective, number: int, total: int, values: LossValues) -> None:
        self.model, self.objective, self.number, self.total = model, objective, number, total
        self.values = values
        groups = objective.optimizer.param_groups
        self.base_lrs = [group["lr"] for group in groups]
        held = {id(parameter) for group in groups for parameter in group["params"]}
        self.parameters = [parameter for parameter in model.parameters() if id(parameter) in held]
        assert len(self.parameters) == len(held), "an optimizer holds parameters that are not the model's"
        self.sum = GradientSum(self.parameters, ranks())

    def take(self, batch: Any, step: int) -> None:
        """Take the step number ``step`` (0-based) on ``batch``; none where the objective has no losses for it."""
        optimizer, clip_norm = self.objective.optimizer, self.objective.clip_norm
        self.model.zero_grad(set_to_none=True)
        if self.objective.begin_step is not None:
            self.objective.begin_step(step, self.total)
        with ranks().counting(getattr(batch, "counts", True)):
            losses, figures = self.sum.over_ranks(*self._backward(self.objective.losses(batch)))
        if not losses:
            return
        norm = None if clip_norm is None else self._clip(clip_norm)
        if self.objective.clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.objective.clip_value * self._loss_scale)
        self.values.add(losses, norm, batch, step, self.number, figures)
        for group, base_lr in zip(optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * self.objective.lr_factor(step, self.total)
        optimizer.step()

    def _backward(self, losses: Losses | Iterable[Losses]) -> tuple[dict[str, Tensor], frozenset[str]]:
        """Add up the gradients of all parts of a batch over the objective's parameters.

        Returns the sum of every loss, and the names of the figures: those without a gradient.
        """
        inputs = [parameter for parameter in self.parameters if parameter.requires_grad]
        sums: dict[str, Tensor] = {}
        figures: set[str] = set()
        for part in [losses] if isinstance(losses, Mapping) else losses:
            if part:
                figures |= {name for name, value in part.items() if not value.requires_grad}
                torch.stack([value for name, value in part.items() if name not in figures]).sum().backward(
                    inputs=inputs
                )
                for name, value in part.items():
                    sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        return sums, frozenset(figures)

    def _clip(self, clip_norm: float) -> Tensor | None:
        """Cut the gradient and return its norm before; none with a loss scale, which copes with overflow itself."""
        optimizer = self.objective.optimizer
        norm = nn.utils.clip_grad_norm_(self.parameters, clip_norm * self._loss_scale)
        return None if isinstance(optimizer, ScaledAdam) and optimizer.half else norm

    @property
    def _loss_scale(self) -> float:
        """What the losses, and so the gradients, are multiplied by."""
        optimizer = self.objective.optimizer
        return optimizer.loss_scale if isinstance(optimizer, ScaledAdam) else 1.0
