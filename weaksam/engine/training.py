"""Train any model on any losses, so that a killed run resumed equals an unbroken one bit for bit."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weaksam.artifacts import file_sha256, write_json_atomic
from weaksam.config import UserError
from weaksam.engine.log import RunLog
from weaksam.engine.progress import Progress
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.weights import load_into, load_state, read_metadata, save_weights

Losses = Mapping[str, Tensor]
History = list[dict[str, float]]

_MODEL, _OPTIMIZER = "model.", "optimizer."


def fit(
    model: nn.Module,
    losses: Callable[[Any], Losses],
    batches: Callable[[int], Iterable[Any]],
    optimizer: torch.optim.Optimizer,
    *,
    num_epochs: int,
    num_steps_per_epoch: int,
    lr_factor: Callable[[int, int], float],
    folder: Path,
    fingerprint: str,
    seed: int,
    label: str,
    log: RunLog | None = None,
    clip_norm: float | None = None,
    on_epoch_end: Callable[[int], None] | None = None,
) -> None:
    """Minimise the sum of ``losses(batch)``; at the end ``model`` holds the trained weights and ``folder`` is sealed.

    ``batches(epoch)`` gives the ``num_steps_per_epoch`` batches of an epoch and may draw from the global random
    numbers, which are seeded from (seed, label, epoch) as each epoch begins; it must keep no state of its own
    between epochs. ``lr_factor(step, total)`` multiplies the optimizer's learning rates at every step (0-based).
    A batch whose losses are empty teaches nothing and is passed over. ``model.train()`` is called each epoch.

    After each epoch ``folder/state.safetensors`` is replaced atomically; a later call goes on from there. The end
    is ``weights.safetensors`` and ``manifest.json`` (fingerprint, SHA-256, mean losses per epoch); a call that
    finds them loads the weights and returns. Raises `UserError` for a loss or gradient that is not finite, naming
    the images, and for a folder of another fingerprint or with damaged weights.
    """
    if load_trained(model, folder, fingerprint, label):
        return
    history = _resume(model, optimizer, folder, fingerprint, label)
    total = num_epochs * num_steps_per_epoch
    descent = _Descent(model, losses, optimizer, lr_factor, total, clip_norm, label)
    with Progress(total, label) as shown:
        shown.skip(len(history) * num_steps_per_epoch)
        for epoch in range(len(history), num_epochs):
            start = time.monotonic()
            seed_everything(derive_seed(seed, label, epoch))
            model.train()
            history.append(descent.epoch(batches(epoch), epoch * num_steps_per_epoch, num_steps_per_epoch, shown))
            if on_epoch_end is not None:
                on_epoch_end(epoch)
            _save_state(model, optimizer, folder, fingerprint, history)
            if log is not None:
                seconds = round(time.monotonic() - start, 2)
                log.write("epoch", label=label, epoch=epoch + 1, losses=history[-1], seconds=seconds)
    _seal(model, folder, fingerprint, label, history)


def load_trained(model: nn.Module, folder: Path, fingerprint: str, label: str) -> bool:
    """Load the weights that `fit` sealed in ``folder``; False if it has not finished there.

    Raises `UserError` if they were trained with other settings or are damaged.
    """
    manifest_path, weights_path = folder / "manifest.json", folder / "weights.safetensors"
    if not manifest_path.is_file():
        return False
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    _check_fingerprint(manifest.get("fingerprint"), fingerprint, folder, label)
    if not weights_path.is_file() or file_sha256(weights_path) != manifest["weights_sha256"]:
        raise UserError(
            f"{weights_path} is missing or damaged (its SHA-256 is not the manifest's): delete {folder} and rerun"
        )
    load_into(model, load_state(weights_path, label), label)
    return True


def training_history(folder: Path) -> History:
    """Mean of every loss per epoch, from a folder that `fit` sealed; empty if it has not."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["history"] if path.is_file() else []


def warmup_cosine(step: int, total: int, warmup: int = 0) -> float:
    """Factor of the learning rate in (0, 1]: a linear rise over ``warmup`` steps, then half a cosine towards 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def warmup_steps(
    step: int, total: int, warmup: int = 0, milestones: Sequence[float] = (0.7, 0.9), gamma: float = 0.1
) -> float:
    """Factor of the learning rate: a linear rise over ``warmup`` steps, then times ``gamma`` at each milestone.

    Milestones are shares of ``total`` in [0, 1].
    """
    rise = (step + 1) / (warmup + 1) if step < warmup else 1.0
    return rise * gamma ** sum(step >= milestone * total for milestone in milestones)


class _Descent:
    """Steps down the gradient of one model's losses, each with its learning rate."""

    def __init__(
        self,
        model: nn.Module,
        losses: Callable[[Any], Losses],
        optimizer: torch.optim.Optimizer,
        lr_factor: Callable[[int, int], float],
        total: int,
        clip_norm: float | None,
        label: str,
    ) -> None:
        self.model, self.losses, self.optimizer, self.lr_factor = model, losses, optimizer, lr_factor
        self.total, self.clip_norm, self.label = total, clip_norm, label
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]

    def epoch(self, batches: Iterable[Any], first_step: int, num_steps: int, shown: Progress) -> dict[str, float]:
        """Take one step per batch and return the mean of every loss over the epoch's ``num_steps`` steps."""
        sums: dict[str, float] = defaultdict(float)
        done = 0
        for batch in batches:
            values = self.step(batch, first_step + done)
            for name, value in values.items():
                sums[name] += value
            done += 1
            shown.update(note=f"loss {sum(values.values()):.4g}")
        assert done == num_steps, f"{self.label}: wanted {num_steps} batches in an epoch, found {done}"
        return {name: value / num_steps for name, value in sums.items()}

    def step(self, batch: Any, step: int) -> dict[str, float]:
        """Take the step number ``step`` (0-based); the value of every loss before it."""
        parts = self.losses(batch)
        if not parts:
            return {}
        where = f"{self.label}, step {step + 1} of {self.total}"
        values = {name: float(value.detach()) for name, value in parts.items()}
        _check_finite(values, batch, where)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * self.lr_factor(step, self.total)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        if self.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            _check_finite({"gradient norm": float(norm)}, batch, where)
        self.optimizer.step()
        return values


def _check_finite(values: Mapping[str, float], batch: Any, where: str) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            images = ", ".join(_image_ids(batch))
            raise UserError(
                f"{where}: wanted a finite {name}, found {value} on the images {images}: lower the learning rate, "
                "or look at those photos and their tags"
            )


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
    return [str(batch)[:60]]


# The state between epochs: tensors in safetensors, everything else as JSON in its header


def _save_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, fingerprint: str, history: History
) -> None:
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}.{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    metadata = {"fingerprint": fingerprint, "history": history, "optimizer": numbers}
    save_weights(folder / "state.safetensors", tensors, metadata)


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, fingerprint: str, label: str) -> History:
    """Load the state of the last finished epoch, if there is one, and return the losses so far."""
    path = folder / "state.safetensors"
    if not path.is_file():
        return []
    tensors, metadata = load_state(path, f"the state of {label}"), read_metadata(path)
    _check_fingerprint(metadata.get("fingerprint"), fingerprint, folder, label)
    of_model = {name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)}
    load_into(model, of_model, label)
    state: dict[int, dict[str, Any]] = {int(index): items for index, items in metadata["optimizer"].items()}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, key = name.removeprefix(_OPTIMIZER).split(".", 1)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return metadata["history"]


def _seal(model: nn.Module, folder: Path, fingerprint: str, label: str, history: History) -> None:
    path = folder / "weights.safetensors"
    save_weights(path, model.state_dict(), {"label": label, "fingerprint": fingerprint})
    manifest = {
        "label": label,
        "fingerprint": fingerprint,
        "weights_sha256": file_sha256(path),
        "num_epochs": len(history),
        "history": history,
    }
    write_json_atomic(folder / "manifest.json", manifest, indent=1)
    (folder / "state.safetensors").unlink(missing_ok=True)


def _check_fingerprint(found: str | None, wanted: str, folder: Path, label: str) -> None:
    if found != wanted:
        raise UserError(
            f"{folder} holds {label} trained with other settings (fingerprint {str(found)[:12]}, wanted "
            f"{wanted[:12]}): use another out folder or delete this one"
        )
