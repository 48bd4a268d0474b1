"""Save and load the state of a training, and seal its weights at the end; nothing is pickled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from weaksam.config import UserError
from weaksam.engine.distributed import this_process
from weaksam.engine.training_job import TrainingJob
from weaksam.store.files import ChangedFile, file_sha256
from weaksam.store.records import read_record, write_record
from weaksam.store.weights import load_into, load_state, read_metadata, save_weights
from weaksam.terminal import say

History = list[dict[str, float]]
"""Mean of every loss by name, epoch after epoch."""

STATES = ("state.safetensors", "state-before.safetensors")
"""The files of a training that is under way: its last saved state and the one before."""
_MODEL, _RANDOM = "model.", "random."


@dataclass(frozen=True)
class RandomState:
    """The global random numbers of Python, numpy and torch (CPU, and CUDA where it is in use), as plain values."""

    tensors: dict[str, Tensor]
    numbers: dict[str, list[Any]]

    @classmethod
    def now(cls) -> RandomState:
        """The state that the next draws follow from."""
        version, words, gauss = random.getstate()
        name, keys, *rest = np.random.get_state()
        tensors = {
            "python": torch.tensor(words),
            "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "torch": torch.get_rng_state(),
        }
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        tensors |= {f"cuda{index}": state for index, state in enumerate(devices)}
        return cls(tensors, {"python": [version, gauss], "numpy": [name, *rest]})

    def restore(self) -> None:
        """Let the next draws be those that followed `now`; devices that this machine lacks are left out."""
        version, gauss = self.numbers["python"]
        random.setstate((version, tuple(self.tensors["python"].tolist()), gauss))
        name, *rest = self.numbers["numpy"]
        np.random.set_state((name, self.tensors["numpy"].numpy().astype(np.uint32), *rest))
        torch.set_rng_state(self.tensors["torch"])
        for index in range(torch.cuda.device_count()):
            if (state := self.tensors.get(f"cuda{index}")) is not None:
                torch.cuda.set_rng_state(state, index)


@dataclass
class TrainingProgress:
    """How far a training is: the mean losses of its finished epochs, and what is done of the next one."""

    history: History = field(default_factory=list)
    steps: int = 0
    """Steps done of the epoch that was begun; 0 between epochs."""
    sums: dict[str, float] = field(default_factory=dict)
    """The sum of every loss over those steps."""
    random: RandomState | None = None
    """The random numbers after those steps, in progress that was read from a file; None between epochs."""

    def end_epoch(self) -> None:
        """Turn the sums over the epoch's steps into its means."""
        self.history.append({name: value / self.steps for name, value in self.sums.items()})
        self.steps, self.sums, self.random = 0, {}, None


def save_progress(
    progress: TrainingProgress, model: nn.Module, optimizers: Sequence[Optimizer], job: TrainingJob
) -> None:
    """Replace ``state.safetensors`` atomically: model, optimizers, progress, within an epoch the random numbers too.

    The state before it stays as ``state-before.safetensors``.
    """
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    metadata: dict[str, Any] = {"fingerprint": job.fingerprint, "history": progress.history}
    for number, optimizer in enumerate(optimizers):
        optimizer_tensors, metadata[_key(number)] = _pack(optimizer)
        tensors |= {f"{_key(number)}.{name}": value for name, value in optimizer_tensors.items()}
    if progress.steps:
        now = RandomState.now()
        tensors |= {_RANDOM + name: value for name, value in now.tensors.items()}
        metadata["epoch"] = {"steps": progress.steps, "sums": progress.sums, "random": now.numbers}
    state, before = (job.folder / name for name in STATES)
    save_weights(state, tensors, metadata, before)


class _DamagedState(Exception):
    """A saved state whose content is not what was saved."""


def load_progress(model: nn.Module, optimizers: Sequence[Optimizer], job: TrainingJob) -> TrainingProgress:
    """Load the state that `save_progress` wrote into model and optimizers; the start of a training if there is none.

    A state that was damaged since it was saved is removed, and the one before it is taken; a line on the standard error
    stream and in the log says so. Raises `UserError` where there is no whole one, or if it is of other settings or does
    not fit the model.
    """
    paths = [path for path in (job.folder / name for name in STATES) if path.is_file()]
    damaged: list[Path] = []
    for path in paths:
        try:
            progress = _load_state_file(path, model, optimizers, job)
        except _DamagedState:
            damaged.append(path)
            continue
        for other in damaged:
            _tell_damage(other, progress, job)
        return progress
    if not paths:
        return TrainingProgress()
    files = " and ".join(path.name for path in paths)
    raise UserError(
        f"wanted a saved state of {job.label} in {job.folder}, found {files} damaged since it was saved: delete "
        f"{'it' if len(paths) == 1 else 'both'} and rerun, which begins this training again"
    )


def _load_state_file(
    path: Path, model: nn.Module, optimizers: Sequence[Optimizer], job: TrainingJob
) -> TrainingProgress:
    """How far the state in ``path`` is, loaded into model and optimizers; raises as `load_progress`."""
    try:
        tensors, metadata = load_state(path), read_metadata(path)
    except (ValueError, AttributeError, SafetensorError):
        raise _DamagedState from None
    if "fingerprint" not in metadata:
        raise _DamagedState
    _check_fingerprint(metadata["fingerprint"], job)
    load_into(model, _under(_MODEL, tensors), job.label)
    try:
        for number, optimizer in enumerate(optimizers):
            _unpack(optimizer, _under(f"{_key(number)}.", tensors), metadata[_key(number)])
        return _progress_of(metadata, _under(_RANDOM, tensors))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _DamagedState from None


def _tell_damage(path: Path, progress: TrainingProgress, job: TrainingJob) -> None:
    """Remove a damaged state and say from where the training goes on."""
    path.unlink(missing_ok=True)
    place = f"epoch {len(progress.history) + 1}, step {progress.steps}"
    note = f"{path} was damaged since it was saved and is removed; the training goes on from the state before ({place})"
    say(f"{job.label}: {note}", error=True)
    if job.log is not None:
        job.log.write("damaged state", label=job.label, note=note)


def _progress_of(metadata: dict[str, Any], random_tensors: dict[str, Tensor]) -> TrainingProgress:
    """How far a training was, by the ``metadata`` of its state."""
    begun = metadata.get("epoch")
    if begun is None:
        return TrainingProgress(list(metadata["history"]))
    numbers = RandomState(random_tensors, begun["random"])
    return TrainingProgress(list(metadata["history"]), int(begun["steps"]), dict(begun["sums"]), numbers)


def load_trained(model: nn.Module, job: TrainingJob) -> bool:
    """Load the weights that `fit` sealed in the job's folder; False if it has not finished there.

    Raises `UserError` if they were trained with other settings or are damaged, and in a process that only helps, which
    never trains, where they are not there.
    """
    manifest_path, weights_path = job.folder / "manifest.json", job.folder / "weights.safetensors"
    if not manifest_path.is_file():
        if this_process().launcher == "workers":
            raise UserError(
                f"wanted the weights of {job.label} in {job.folder}, which the first process trained, found none: put "
                "out=DIR on a disk that all machines share"
            )
        return False
    manifest = read_record(manifest_path)
    if manifest is None or not {"fingerprint", "weights_sha256"} <= set(manifest):
        raise UserError(
            f"wanted the manifest of {job.label} in {manifest_path}, found a damaged file: delete {job.folder} and "
            "rerun, which trains it again"
        )
    _check_fingerprint(manifest["fingerprint"], job)
    load_into(model, load_sealed(weights_path, job.label), job.label)
    return True


def sealed_sha256(weights: Path) -> str:
    """The SHA-256 of the bytes of sealed weights, by the manifest beside them; `UserError` where it does not say."""
    sha256 = (read_record(weights.with_name("manifest.json")) or {}).get("weights_sha256")
    if not isinstance(sha256, str):
        raise UserError(
            f"wanted the SHA-256 of {weights} in the manifest beside it, found a damaged manifest: delete "
            f"{weights.parent} and rerun, which trains it again"
        )
    return sha256


def load_sealed(weights: Path, what: str) -> dict[str, Tensor]:
    """The tensors of weights that `seal` wrote, called ``what`` in errors; `UserError` where they are damaged."""
    try:
        return load_state(weights, what, sealed_sha256(weights))
    except ChangedFile:
        raise UserError(
            f"{weights} is missing or damaged (its SHA-256 is not the manifest's): delete {weights.parent} and rerun, "
            "which trains it again"
        ) from None


def seal(model: nn.Module, job: TrainingJob, history: History) -> None:
    """Write the trained weights and their manifest, and remove the state."""
    path = job.folder / "weights.safetensors"
    classes = {"classes": list(job.classes)} if job.classes else {}
    save_weights(path, model.state_dict(), {"label": job.label, "fingerprint": job.fingerprint, **classes})
    manifest = {
        "label": job.label,
        "fingerprint": job.fingerprint,
        "weights_sha256": file_sha256(path),
        "num_epochs": len(history),
        "threads": torch.get_num_threads(),
        "history": history,
    }
    write_record(job.folder / "manifest.json", manifest)
    for name in STATES:
        (job.folder / name).unlink(missing_ok=True)


def _key(number: int) -> str:
    """The name of an optimizer in the state: ``optimizer``, ``optimizer1``, ..."""
    return f"optimizer{number or ''}"


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _pack(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The optimizer's state as tensors by ``index.key``, and what is no tensor by index and key."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    return tensors, numbers


def _unpack(optimizer: Optimizer, tensors: dict[str, Tensor], numbers: dict[str, dict[str, Any]]) -> None:
    """Load what `_pack` gave into the optimizer."""
    state: dict[int | str, dict[str, Any]] = {_index(name): dict(items) for name, items in numbers.items()}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(_index(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # Fused optimizers go through parameter and state side by side in memory, files know one layout only
    for parameter, of_parameter in optimizer.state.items():
        for key, value in of_parameter.items():
            if isinstance(value, Tensor) and isinstance(parameter, Tensor) and value.shape == parameter.shape:
                of_parameter[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _index(name: str) -> int | str:
    """A parameter's number, or the name of a state that belongs to none."""
    return int(name) if name.isdigit() else name


def _check_fingerprint(fingerprint: str | None, job: TrainingJob) -> None:
    """UserError where a file in the job's folder has another fingerprint than the job."""
    if fingerprint != job.fingerprint:
        raise UserError(
            f"{job.folder} holds {job.label} trained with other settings (fingerprint {str(fingerprint)[:12]}, wanted "
            f"{job.fingerprint[:12]}): use another out folder or delete this one"
        )
