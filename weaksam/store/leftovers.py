"""Remove what a killed run leaves and an unbroken one does not."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from weaksam.store.records import read_record

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp", re.DOTALL)
"""Names of files and folders that a process writes before it renames them: its number stands in them."""


def remove_leftovers(out: Path, folders: Iterable[str]) -> None:
    """Clean the output folder ``out``, in which nobody works now; of its folders only those named in ``folders``.

    Temporary files go, the claims of workers, and the states of trainings whose weights are sealed. What is not there
    needs no cleaning, and what cannot be deleted stays.
    """
    places = [out / name for name in folders if (out / name).is_dir()]
    paths = [*_children(out), *(path for place in places for path in place.rglob("*"))]
    for path in paths:
        if _TEMPORARY.fullmatch(path.name) or path.name == ".claims" or _is_state_of_sealed_weights(path):
            _remove(path)


def _children(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _is_state_of_sealed_weights(path: Path) -> bool:
    """Whether ``path`` is the state of a training that has ended: the manifest beside it names the weights."""
    if not (path.name.startswith("state") and path.suffix == ".safetensors"):
        return False
    manifest = read_record(path.with_name("manifest.json"))
    return manifest is not None and "weights_sha256" in manifest and path.with_name("weights.safetensors").is_file()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
