"""What a training keeps in its folder: its state on the way, at the end its sealed weights; nothing is pickled."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from weaksam.config import UserError
from weaksam.store.files import file_sha256, write_json_atomic
from weaksam.store.weights import load_into, load_state, read_metadata, save_weights

History = list[dict[str, float]]

_MODEL, _RANDOM = "model.", "random."


@dataclass(frozen=True)
class RandomState:
    """The global random numbers of Python, numpy and torch (CPU, and CUDA where it is in use), as plain values."""

    tensors: dict[str, Tensor]
    numbers: dict[str, list[Any]]

    @classmethod
    def now(cls) -> RandomState:
        """What the next draws follow from."""
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
class Place:
    """How far a training is: the mean losses of its finished epochs, and what is done of the next one."""

    history: History = field(default_factory=list)
    steps: int = 0
    """Steps done of the epoch that was begun; 0 between epochs."""
    sums: dict[str, float] = field(default_factory=dict)
    """The sum of every loss over those steps."""
    random: RandomState | None = None
    """The random numbers after those steps, in a place that was read from a file; None between epochs."""

    def end_epoch(self) -> None:
        """Turn the sums over the epoch's steps into its means."""
        self.history.append({name: value / self.steps for name, value in self.sums.items()})
        self.steps, self.sums, self.random = 0, {}, None


def save_place(place: Place, model: nn.Module, optimizers: Sequence[Optimizer], folder: Path, fingerprint: str) -> None:
    """Replace ``folder/state.safetensors`` atomically: model, optimizers, place, random numbers within an epoch."""
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    metadata: dict[str, Any] = {"fingerprint": fingerprint, "history": place.history}
    for number, optimizer in enumerate(optimizers):
        of_optimizer, metadata[_key(number)] = _pack(optimizer)
        tensors |= {f"{_key(number)}.{name}": value for name, value in of_optimizer.items()}
    if place.steps:
        now = RandomState.now()
        tensors |= {_RANDOM + name: value for name, value in now.tensors.items()}
        metadata["epoch"] = {"steps": place.steps, "sums": place.sums, "random": now.numbers}
    save_weights(folder / "state.safetensors", tensors, metadata)


def load_place(model: nn.Module, optimizers: Sequence[Optimizer], folder: Path, fingerprint: str, label: str) -> Place:
    """Load the state that `save_place` wrote into model and optimizers; the start of a training if there is none.

    Raises `UserError` if it is of other settings or does not fit the model.
    """
    path = folder / "state.safetensors"
    if not path.is_file():
        return Place()
    tensors, metadata = load_state(path, f"the state of {label}"), read_metadata(path)
    _check_fingerprint(metadata.get("fingerprint"), fingerprint, folder, label)
    load_into(model, _under(_MODEL, tensors), label)
    for number, optimizer in enumerate(optimizers):
        _unpack(optimizer, _under(f"{_key(number)}.", tensors), metadata[_key(number)])
    begun = metadata.get("epoch")
    if begun is None:
        return Place(metadata["history"])
    numbers = RandomState(_under(_RANDOM, tensors), begun["random"])
    return Place(metadata["history"], begun["steps"], begun["sums"], numbers)


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


def seal(model: nn.Module, folder: Path, fingerprint: str, label: str, history: History) -> None:
    """Write the trained weights and their manifest, and remove the state."""
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


def _key(number: int) -> str:
    """The name of an optimizer in the state: ``optimizer``, ``optimizer1``, ..."""
    return f"optimizer{number or ''}"


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
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
    state: dict[int | str, dict[str, Any]] = {_index(name): dict(items) for name, items in numbers.items()}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(_index(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _index(name: str) -> int | str:
    """A parameter's number, or the name of a state that belongs to none."""
    return int(name) if name.isdigit() else name


def _check_fingerprint(found: str | None, wanted: str, folder: Path, label: str) -> None:
    if found != wanted:
        raise UserError(
            f"{folder} holds {label} trained with other settings (fingerprint {str(found)[:12]}, wanted "
            f"{wanted[:12]}): use another out folder or delete this one"
        )
