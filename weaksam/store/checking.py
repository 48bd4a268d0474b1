"""Check the files of one store's folder against the hashes that they were written with, whatever stage made it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from weaksam.config import UserError
from weaksam.store.files import file_sha256
from weaksam.store.listed_files import FILES, MANIFEST
from weaksam.store.parts import part_names, whole_files
from weaksam.store.records import read_record
from weaksam.store.weights import load_state

FaultKind = Literal["changed", "missing", "unlisted"]
WEIGHTS = "weights.safetensors"
"""The sealed weights of a training, whose hash the manifest holds under ``weights_sha256``."""
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileFault:
    """A file that is not what was written: ``changed``, ``missing``, or ``unlisted`` (nobody wrote down that it is).

    ``remedy`` says in words what to do.
    """

    path: Path
    kind: FaultKind
    remedy: str


@dataclass(frozen=True)
class CheckedFile:
    """A file that was compared with its hash, and its fault where it has one."""

    path: Path
    fault: FileFault | None = None


def check_store(folder: Path, command: str) -> Iterator[CheckedFile]:
    """Every file of a store's or a training's folder, sealed or under way; ``command`` makes it again.

    A sealed folder is compared with its manifest; files that it does not list, and those of a folder that is not
    sealed, with the hash that they hold themselves. Nothing is changed.
    """
    path = folder / MANIFEST
    listed: dict[str, str] = {}
    if path.exists():
        manifest = read_record(path)
        yield CheckedFile(path, None if manifest is not None else FileFault(path, "changed", _of_manifest(folder)))
        listed = _listed(manifest or {})
    for name, sha256 in sorted(listed.items()):
        yield _compared(folder / name, sha256, _of_sealed(folder, name, command))
    yield from _others(folder, listed, command, bool(listed))


def compared(path: Path, sha256: str, remedy: str) -> CheckedFile:
    """A file compared with the SHA-256 of its bytes."""
    return _compared(path, sha256, remedy)


def check_own_hash(path: Path, remedy: str) -> CheckedFile:
    """A record or a weight file compared with the hash that it holds itself."""
    if path.suffix == ".json":
        return CheckedFile(path, FileFault(path, "changed", remedy) if read_record(path) is None else None)
    try:
        load_state(path)
    except (UserError, OSError, SafetensorError):
        return CheckedFile(path, FileFault(path, "changed", remedy))
    return CheckedFile(path)


def _compared(path: Path, sha256: str, remedy: str) -> CheckedFile:
    try:
        same = file_sha256(path) == sha256
    except FileNotFoundError:
        return CheckedFile(path, FileFault(path, "missing", remedy))
    except OSError:
        same = False
    return CheckedFile(path, None if same else FileFault(path, "changed", remedy))


def _listed(manifest: dict[str, object]) -> dict[str, str]:
    """SHA-256 by name of everything that a manifest lists: parts, weights and other files."""
    listed: dict[str, str] = {}
    parts, files = manifest.get("parts"), manifest.get(FILES)
    if isinstance(parts, list):
        listed |= {str(part["file"]): str(part["sha256"]) for part in parts if isinstance(part, dict)}
    if isinstance(manifest.get("weights_sha256"), str):
        listed[WEIGHTS] = str(manifest["weights_sha256"])
    if isinstance(files, dict):
        listed |= {str(name): str(sha256) for name, sha256 in files.items()}
    return {name: sha256 for name, sha256 in listed.items() if Path(name).name == name and _HEX.fullmatch(sha256)}


def _others(folder: Path, listed: dict[str, str], command: str, sealed: bool) -> Iterator[CheckedFile]:
    """The files of a folder that its manifest does not list."""
    unlisted = "it is read by nothing: delete it"
    parts = {name for names in part_names(folder).values() for name in names}
    for path in sorted(folder.iterdir()):
        if path.name == MANIFEST or path.name in listed:
            continue
        if not path.is_file() or path.name.startswith(".") or (sealed and path.name.startswith(("state", "part-"))):
            if sealed or not path.name.startswith("."):
                yield CheckedFile(path, FileFault(path, "unlisted", unlisted))
        elif path.name in parts:
            whole = any(whole_files(folder, [path.name]))
            again = f"run {command} again, which computes that part anew"
            yield CheckedFile(path, None if whole else FileFault(path, "changed", again))
        elif path.suffix in (".json", ".safetensors"):
            yield check_own_hash(path, f"delete it and run {command} again, {_what_follows(path.name)}")
        else:
            yield CheckedFile(path, FileFault(path, "unlisted", unlisted))


def _what_follows(name: str) -> str:
    if name.startswith("state"):
        return "which goes on from the state before it, or begins this training again where there is none"
    return "which makes it again"


def _of_manifest(folder: Path) -> str:
    """What to do about a damaged manifest."""
    if part_names(folder):
        return "run the command of this run again, which writes it anew from the parts"
    return f"delete {folder} and run the command of this run again, which trains it again"


def _of_sealed(folder: Path, name: str, command: str) -> str:
    """What to do about a listed file that is missing or changed."""
    if name.startswith("part-"):
        return f"delete {folder} and run {command} again, which computes this store anew"
    if name == WEIGHTS:
        return f"delete {folder} and run {command} again, which trains it anew"
    return f"delete it and run {command} again, which makes it anew"
